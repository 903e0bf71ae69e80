"""Names in vocabularies, annotations, bags and messages never say where something is written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import benchmark_files
import pytest
import tiny
import torch

from instformer_ros import cli
from instformer_ros.ablation.running import cell_file, systems_of
from instformer_ros.ablation.systems import TABLES
from instformer_ros.text_cache import TextCache
from instformer_ros.training import tokens
from instformer_ros.training.annotated import Work, train_annotated
from instformer_ros.training.loop import Session
from instformer_ros.training.recipe import InstanceRecipe, Recipe, RolloutRecipe
from instformer_ros.training.team import Team
from instformer_ros.weights import checkpoint, pull


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test may write, with room above it for what climbs out; caches and homes lie there as well."""
    folder = tmp_path / "a" / "b" / "c" / "d"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(folder / "home"))
    return folder


def evil(tmp_path: Path) -> list[str]:
    """Relative and absolute ways out."""
    return ["../../up", "..", "x/../../../up", f"{tmp_path}/absolute", "~/home", "nul\0byte", "C:\\up", "....//up"]


@contextmanager
def stays_in(allowed: Path, above: Path) -> Iterator[None]:
    """Everything that is new below ``above`` lies in ``allowed``."""
    before = set(above.rglob("*"))
    yield
    made = set(above.rglob("*")) - before
    assert made, "the test itself: something is written"
    assert [path for path in made if not path.resolve().is_relative_to(allowed.resolve())] == []


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model" / "tiny.safetensors"
    checkpoint.save(tiny.model(), path, dict.fromkeys(("proposals", "clip", "instclip", "rollout"), "MIT"))
    return path


def test_a_climbing_path_would_be_seen(deep: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="up"), stays_in(deep, tmp_path):
        (deep / ".." / "up").write_text("")


def test_segment_writes_into_its_folder_alone(deep: Path, tmp_path: Path, model: Path) -> None:
    benchmark_files.picture(tmp_path / "in" / "0.png", 9)
    words = ",".join(word.replace("\0", "") for word in evil(tmp_path))
    with stays_in(deep, tmp_path):
        arguments = ["segment", str(tmp_path / "in"), "--vocabulary", words, "--output", str(deep / "out")]
        assert cli.main([*arguments, "--model", str(model), "--device", "cpu"]) == 0
    assert {path.name for path in (deep / "out").iterdir()} == {"tracks.json", "overlay.mp4", "summary.json"}


def test_a_bag_names_no_file(deep: Path, tmp_path: Path, model: Path) -> None:
    """Neither its topics nor the frame_ids of its images."""
    pytest.importorskip("rosbags", reason="rosbags is not installed: pip install 'instformer_ros[bags]'")
    import bag_files

    images = [bag_files.raw(n, picture) for n, picture in enumerate(bag_files.pictures())]
    for image in images:
        image.header.frame_id = "../../up"
    bag = bag_files.write(tmp_path / "run", {"/../../up": images})
    with stays_in(deep, tmp_path):
        arguments = ["segment", str(bag), "--vocabulary", "cat", "--output", str(deep / "out"), "--topic", "/../../up"]
        arguments += ["--output-bag", str(deep / "found.mcap"), "--model", str(model), "--device", "cpu"]
        assert cli.main(arguments) == 0


def climbing_annotations(folder: Path, names: list[str]) -> dict[str, Any]:
    """Videos, pictures and classes with such names; the pictures are there."""
    data, _ = benchmark_files.youtube_vis(folder, videos=2)
    for number, video in enumerate(data["videos"]):
        video["name"] = names[number]
        video["file_names"] = [f"../{folder.name}/{file}" for file in video["file_names"]]
    for number, category in enumerate(data["categories"]):
        category["name"] = names[number]
    return data


def test_evaluation_writes_what_it_is_asked_for_alone(deep: Path, tmp_path: Path, model: Path) -> None:
    data = climbing_annotations(tmp_path / "images", evil(tmp_path))
    (tmp_path / "val.json").write_text(json.dumps(data))
    arguments = ["evaluate", "youtube-vis", "--annotations", str(tmp_path / "val.json"), "--model", str(model)]
    arguments += ["--images", str(tmp_path / "images"), "--json", str(deep / "scores.json"), "--device", "cpu"]
    with stays_in(deep, tmp_path):
        assert cli.main([*arguments, "--submission", str(deep / "results.zip")]) == 0
        assert cli.main([*arguments, "--submission", str(deep / "results.json")]) == 0


def test_training_writes_into_its_folder_alone(
    deep: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_LEAST_OVERLAP", 0.0)
    data = climbing_annotations(tmp_path / "images", evil(tmp_path))
    (tmp_path / "train.json").write_text(json.dumps(data))
    recipe = Recipe(
        InstanceRecipe(steps=1, batch=1, points=64, short_side=(40, 48), precision="fp32"),
        RolloutRecipe(steps=1, batch=1, videos=2, mask_duplicates=False),
    )
    work = Work("youtube-vis", tmp_path / "train.json", tmp_path / "images", str(model), "both")
    with stays_in(deep, tmp_path):
        train_annotated(work, recipe, 0, Session(deep / "run", Team(torch.device("cpu")), workers=0))


def test_the_text_cache_names_files_by_sums(deep: Path, tmp_path: Path) -> None:
    class Encoder:
        def fingerprint(self) -> str:
            return "0" * 32

        def __call__(self, names: list[str]) -> Any:
            return torch.nn.functional.normalize(torch.ones(len(names), 8), dim=-1)

    encoder: Any = Encoder()
    with stays_in(deep, tmp_path):
        TextCache(encoder)(evil(tmp_path), 8)
    files = [path.name for path in deep.rglob("*") if path.is_file()]
    assert len(files) == len(evil(tmp_path)) and all(re.fullmatch(r"[0-9a-f]{32}\.f32", name) for name in files)


def test_cells_of_an_ablation_lie_in_its_folder(deep: Path) -> None:
    for system in systems_of(TABLES.values()):
        path = cell_file(deep, system, 3)
        assert path.parent == deep / "seed3" and re.fullmatch(r"[\w.+=-]+\.json", path.name), path


@pytest.mark.parametrize("name", ["../../up", "/up", "..", "r50-vitb32/../../up"])
def test_only_known_weights_are_pulled(deep: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["weights", "pull", name, "--folder", str(deep / "weights")]) == 2
    assert "no public weights are known" in capsys.readouterr().err
    assert list(deep.iterdir()) == []


def test_files_that_are_pulled_have_plain_names() -> None:
    for name in ("r50-vitb32", "r50-vitb16", "swint-vitb32"):
        recipe = pull.recipe(name)
        for remote in (recipe.proposals, recipe.clip):
            assert re.fullmatch(r"[\w.-]+", remote.name) and not remote.name.startswith(".")


@pytest.mark.parametrize("name", ["../../up", "/up", "..", "a/../b", "a//b", "a/", "~x", "a b"])
def test_cameras_have_ros_names(name: str) -> None:
    parameters = pytest.importorskip("instformer_ros.nodes.openvis_parameters", reason="needs ROS")
    from instformer_ros.structures import InstformerError

    with pytest.raises(InstformerError, match="no ROS name"):
        parameters.camera_names([name])
