"""Text embeddings from files: read right, named right, and, where real ones are at hand, sensible."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from instformer_ros.cli import main
from instformer_ros.engine import Engine
from instformer_ros.ready_vocabulary import read_embeddings
from instformer_ros.structures import InstformerError
from instformer_ros.weights import checkpoint

REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "clip_text"


def write(folder: Path, name: str, rows: int, width: int = 24, dtype: str = "f2") -> np.ndarray:
    """Some lengths other than one."""
    array = (3 * np.random.default_rng(rows).standard_normal((rows, width))).astype(dtype)
    np.save(folder / name, array)
    return array


def test_names_from_text_json_and_lvis(tmp_path: Path) -> None:
    array = write(tmp_path, "words.npy", 3)
    lvis = [{"name": "teddy_bear", "id": 3}, {"name": "bow_(weapon)", "id": 1}, {"name": "mug", "id": 2}]
    for name, text, wanted in (
        ("a.txt", "mug\nred  cup\ndrill\n", ("mug", "red cup", "drill")),
        ("a.json", json.dumps(["x", "y", "z"]), ("x", "y", "z")),
        ("lvis.json", json.dumps(lvis), ("bow (weapon)", "mug", "teddy bear")),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / "other.txt").write_text("one\ntwo")
        for where in (tmp_path, tmp_path / "words.npy"):
            words = read_embeddings(where)
            assert words.names == wanted
            assert torch.allclose(words.embeddings.norm(dim=1), torch.ones(3))
            rows = torch.from_numpy(array.astype(np.float32))
            assert torch.allclose(torch.nn.functional.cosine_similarity(words.embeddings, rows), torch.ones(3))
        (tmp_path / name).unlink()


def test_eighty_rows_are_cocos(tmp_path: Path) -> None:
    write(tmp_path, "coco.npy", 80)
    names = read_embeddings(tmp_path / "coco.npy").names
    assert (names[0], names[15], names[79], len(set(names))) == ("person", "cat", "toothbrush", 80)


def test_words_are_chosen_in_order(tmp_path: Path) -> None:
    write(tmp_path, "coco.npy", 80)
    words = read_embeddings(tmp_path)
    some = words.choose([" Dog", "cat"])
    assert some.names == ("Dog", "cat")
    assert torch.equal(some.embeddings, words.embeddings[[16, 15]])
    assert words.choose([]) == words
    with pytest.raises(InstformerError, match="given for 'motorcicle'; of the 80 that are: motorcycle"):
        words.choose(["dog", "motorcicle"])


def test_of_two_files_the_first_counts(tmp_path: Path) -> None:
    first, second = write(tmp_path, "a.npy", 80), write(tmp_path, "b.npy", 2)
    (tmp_path / "b.txt").write_text("dog\ndrill")
    words = read_embeddings(tmp_path)
    assert len(words.names) == 81
    rows = torch.from_numpy(np.stack([first[16], second[1]]).astype(np.float32))
    wanted = torch.nn.functional.normalize(rows, dim=1)
    assert torch.allclose(words.choose(["dog", "drill"]).embeddings, wanted)


def test_what_is_of_no_use(tmp_path: Path) -> None:
    def complaint(name: str) -> str:
        with pytest.raises(InstformerError) as caught:
            read_embeddings(tmp_path / name)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no .npy file in it" in complaint("")
    assert "no .npy file of numbers" in complaint("none.npy")
    write(tmp_path, "few.npy", 5)
    assert "nothing beside it names its 5 rows; write few.txt" in complaint("few.npy")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    assert "no .npy file of numbers" in complaint("objects.npy")
    np.save(tmp_path / "flat.npy", np.zeros(80, "f4"))
    assert "give finite floats (K, E)" in complaint("flat.npy")
    np.save(tmp_path / "nan.npy", np.full((80, 4), np.nan, "f4"))
    assert "give finite floats (K, E)" in complaint("nan.npy")


def test_the_engine_names_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    engine = Engine(tiny.model(), torch.device("cpu"))
    write(tmp_path, "coco.npy", 80)
    ready = read_embeddings(tmp_path).choose(["dog", "cat"])
    encoded = engine.encode_embeddings(ready)
    assert torch.equal(encoded.embeddings, ready.embeddings)
    assert torch.equal(encoded.negatives, engine.encode_vocabulary(["dog"]).negatives)
    assert engine.use_vocabulary(encoded).names == ("dog", "cat")
    np.save(tmp_path / "coco.npy", np.ones((80, 25), "f4"))
    with pytest.raises(InstformerError, match="have 25 numbers; this CLIP has 24"):
        engine.encode_embeddings(read_embeddings(tmp_path))
    engine.close()


def test_segment_takes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint.save(tiny.model(), tmp_path / "tiny.safetensors", {})
    (tmp_path / "words").mkdir()
    write(tmp_path / "words", "coco.npy", 80)
    arguments = ["segment", "toyvis:1", "--max-frames", "1", "--model", str(tmp_path / "tiny.safetensors")]
    arguments += ["--vocabulary-embeddings", str(tmp_path / "words"), "--output", str(tmp_path / "out"), "--vocabulary"]
    for words, wanted in (("zebra, cat", ["zebra", "cat"]), ("", 80)):
        assert main([*arguments, words]) == 0
        names = json.loads((tmp_path / "out" / "summary.json").read_text())["vocabulary"]
        assert names == wanted or len(names) == wanted
    assert main([*arguments, "zebras"]) == 2
    assert "of the 80 that are: zebra" in capsys.readouterr().err


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real CLIP features of {REAL}")
def test_real_features_have_sensible_neighbours() -> None:
    lvis = read_embeddings(REAL / "lvis_v1_clip_a+cname.npy")
    assert (len(lvis.names), lvis.embeddings.shape[1]) == (1203, 512)
    for word, nearest in (("dog", "puppy"), ("cat", "kitten"), ("airplane", "jet plane"), ("mug", "cup")):
        similarity = lvis.embeddings @ lvis.choose([word]).embeddings[0]
        assert [lvis.names[i] for i in similarity.topk(2).indices] == [word, nearest]
    coco = read_embeddings(REAL / "coco_clip_a+cname.npy")
    both = [name for name in coco.names if name in lvis.names]
    assert len(both) > 50
    same = (coco.choose(both).embeddings * lvis.choose(both).embeddings).sum(1)
    assert same.median() > 0.999, "the same words have the same features in both files: the names are the right ones"
