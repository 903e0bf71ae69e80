"""``instformer evaluate`` on the public benchmarks: scores, submissions, and what is said of files that do not fit."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import benchmark_files as files
import numpy as np
import pytest

from instformer_ros import masks as mask_tools
from instformer_ros.cli import main
from instformer_ros.data.youtube_vis import youtube_vis_dataset
from instformer_ros.evaluation.benchmark_run import run_dataset
from instformer_ros.evaluation.benchmarks import score
from instformer_ros.evaluation.burst import burst_submission, score_burst
from instformer_ros.settings import Settings
from instformer_ros.structures import InstformerError, TrackedFrame, TrackedInstance, TrackState, Vocabulary

ONE = pytest.approx(1.0, abs=1e-12)


def perfect(data: dict[str, Any], score: float = 0.9) -> list[dict[str, Any]]:
    """The ground truth as predictions, in compressed run lengths."""

    def coded(mask: Any) -> Any:
        if mask is None:
            return None
        rle = mask_tools.parse(mask, files.HEIGHT, files.WIDTH)
        return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}

    return [
        {
            "video_id": a["video_id"],
            "category_id": a["category_id"],
            "score": score,
            "segmentations": [coded(m) for m in a["segmentations"]],
        }
        for a in data["annotations"]
    ]


def test_lv_vis_splits_are_those_of_the_partition(tmp_path: Path) -> None:
    data, _ = files.youtube_vis(tmp_path)
    predictions = [p for p in perfect(data) if p["category_id"] == 3]  # base is found, novel is not
    out = score("lv-vis", data, predictions)
    assert out["splits"]["base"]["AP"] == ONE and out["splits"]["novel"]["AP"] == 0.0
    assert out["AP"] == pytest.approx(0.5) and out["AR100"] == pytest.approx(0.5)
    for category in data["categories"]:
        del category["partition"]
    assert score("youtube-vis", data, predictions)["splits"] == {}
    with pytest.raises(InstformerError, match=r"val\.json: no category has a 'partition'"):
        score("lv-vis", data, predictions, "val.json")


def test_uvo_asks_for_masks_alone(tmp_path: Path) -> None:
    data, _ = files.youtube_vis(tmp_path)
    renamed = [{**p, "category_id": 12345} for p in perfect(data)]
    out = score("uvo", data, renamed)
    assert out["AP"] == ONE and out["AR100"] == ONE
    with pytest.raises(InstformerError, match="category 12345"):
        score("youtube-vis", data, renamed)


def test_tracks_count_once_however_many_classes_they_have(tmp_path: Path) -> None:
    pytest.importorskip("trackeval", reason="trackeval is not installed")
    data, _ = files.youtube_vis(tmp_path)
    twice = [*perfect(data, 0.5), *({**p, "category_id": 9, "score": 0.4} for p in perfect(data))]
    assert score("youtube-vis", data, twice)["IDF1"] == ONE
    faint = [{**p, "score": 0.1} for p in perfect(data)]
    assert score("youtube-vis", data, faint)["IDF1"] == 0.0  # below 0.3 ...
    surely = [{**p, "objectness": 0.8} for p in faint]
    assert score("youtube-vis", data, surely)["IDF1"] == ONE  # ... unless the file tells objectness and class apart
    data["annotations"][0]["iscrowd"] = 1
    assert score("youtube-vis", data, perfect(data))["IDF1"] == ONE  # what falls to a crowd is no false alarm
    assert score("youtube-vis", data, perfect(data)[1:])["IDF1"] == ONE  # and a crowd is nothing to be found


def test_the_command_scores_a_file_without_torch(tmp_path: Path) -> None:
    data, _ = files.youtube_vis(tmp_path / "images")
    annotations = files.save(tmp_path / "val.json", data)
    predictions = files.save(tmp_path / "results.json", perfect(data))
    code = f"""
import sys
sys.modules["torch"] = None
from instformer_ros.cli import main
sys.exit(main(["evaluate", "youtube-vis", "--annotations", {str(annotations)!r}, "--predictions", {str(predictions)!r},
               "--json", {str(tmp_path / "scores.json")!r}, "--submission", {str(tmp_path / "again.zip")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "scores.json").read_text())
    assert numbers["AP"] == ONE and numbers["predictions"] == str(predictions) and "100.0" in done.stdout
    with zipfile.ZipFile(tmp_path / "again.zip") as archive:
        assert json.loads(archive.read("results.json")) == perfect(data)
    code = main(
        ["evaluate", "youtube-vis", "--annotations", str(annotations), "--predictions", f"{tmp_path}/again.zip"]
    )
    assert code == 0


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, [], "give either --images"),
        ({}, ["--images", "{}/images", "--predictions", "{}/r.json"], "give either --images"),
        ({}, ["--predictions", "{}/none.json"], "none.json: no such file"),
        ({}, ["--predictions", "{}/r.json", "--json", "{}"], "is a folder; name a file"),
        ({"annotations": None}, ["--predictions", "{}/r.json"], "holds no annotations"),
        ({"videos": None}, ["--predictions", "{}/r.json"], "ground truth: missing or bad key"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], options: list[str], message: str
) -> None:
    data, _ = files.youtube_vis(tmp_path / "images")
    files.save(tmp_path / "r.json", perfect(data))
    annotations = files.save(tmp_path / "val.json", {**data, **change})
    given = [option.replace("{}", str(tmp_path)) for option in options]
    assert main(["evaluate", "youtube-vis", "--annotations", str(annotations), *given]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


class Sure:
    """An engine that sees a square where the picture says, and calls it a cat."""

    settings = Settings()

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.resets = 0

    def set_vocabulary(self, names: Any) -> None:
        self.names = tuple(names)

    def reset(self, camera: str | None = None) -> None:
        self.resets += 1

    def step(self, images: Any) -> dict[str, TrackedFrame]:
        ((camera, image),) = images.items()
        rle = mask_tools.encode(files.square(25, 15))
        scores = np.array([0.1, 0.9, 0.0], np.float32) if self.names else None
        one = TrackedInstance(
            5, TrackState.NEW, 1, 0, 1, 1 if self.names else -1, "", 0.9, 1.0, (25, 15, 10, 10), rle, scores
        )
        return {camera: TrackedFrame(*image.shape[:2], Vocabulary(1, self.names), 0, [one])}


def test_a_model_is_run_on_every_video_and_its_words_get_the_files_ids(tmp_path: Path) -> None:
    data, images = files.youtube_vis(tmp_path)
    dataset = youtube_vis_dataset(data, images, "youtube-vis", "val.json")
    engine: Any = Sure()
    entries = run_dataset(engine, dataset)
    assert engine.names == ("giant panda", "cat", "dog") and engine.resets == 2 and engine.settings == Settings()
    assert [(e["video_id"], e["category_id"]) for e in entries] == [(1, 7), (1, 3), (2, 7), (2, 3)]
    assert all(e["objectness"] == ONE and len(e["segmentations"]) == 3 for e in entries)
    out = score("youtube-vis", data, entries)
    # the cat is null in the middle frame, where this engine sees it too: IoU 2/3 passes .50, .55, .60, .65
    assert out["splits"]["novel"]["AP"] == pytest.approx(0.4) and out["splits"]["base"]["AP"] == 0.0
    agnostic = run_dataset(engine, dataset, class_agnostic=True)
    assert engine.names == () and [e["category_id"] for e in agnostic] == [3, 3]


def burst_entries(data: dict[str, Any], score: float = 0.8) -> list[dict[str, Any]]:
    """The ground truth of a BURST file as entries of the YouTube-VIS results format."""
    out = []
    for sequence in data["sequences"]:
        for track, category in sequence["track_category_ids"].items():
            masks = [f.get(track) for f in sequence["segmentations"]]
            coded = [m and {"size": [files.HEIGHT, files.WIDTH], "counts": m["rle"]} for m in masks]
            out.append({"video_id": sequence["id"], "category_id": category, "score": score, "segmentations": coded})
    return out


def test_burst_submission_and_scores(tmp_path: Path) -> None:
    pytest.importorskip("trackeval", reason="trackeval is not installed")
    data, _ = files.burst(tmp_path)
    entries = burst_entries(data)
    submission = json.loads(json.dumps(burst_submission(data, entries)))
    first = submission["sequences"][0]
    assert first["track_category_ids"] == {"1": 805, "2": 805, "3": 1} and "2" not in first["segmentations"][1]
    assert first["segmentations"][0]["3"]["score"] == 0.8 and first["seq_name"] == "seq1"
    out = score("burst", data, submission)
    assert out["classes"] == 2 and all(out[key] == ONE for key in ("HOTA", "DetA", "AssA", "AP"))
    no_persons = [e for e in entries if e["category_id"] != 805]
    out = score_burst(data, burst_submission(data, no_persons))
    assert out["common"]["AP"] == 0.0 and out["uncommon"]["AP"] == ONE and out["all"]["HOTA"] == pytest.approx(0.5)


def test_burst_labels_are_federated(tmp_path: Path) -> None:
    pytest.importorskip("trackeval", reason="trackeval is not installed")
    data, _ = files.burst(tmp_path)
    entries = burst_entries(data)
    acorn = next(e for e in entries if e["category_id"] == 1)
    elsewhere = {**acorn, "video_id": 2, "score": 0.99}  # an acorn in the second sequence, which does not list acorns
    out = score_burst(data, burst_submission(data, [*entries, elsewhere]))
    assert out["uncommon"]["AP"] == ONE and out["uncommon"]["HOTA"] == ONE
    data["sequences"][1]["neg_category_ids"].append(1)  # known to be absent: now it is a false alarm
    out = score_burst(data, burst_submission(data, [*entries, elsewhere]))
    assert out["uncommon"]["AP"] == pytest.approx(0.5) and out["uncommon"]["HOTA"] < 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(id=9), "predictions, sequence 9: not in the ground truth"),
        (lambda s: s["segmentations"].pop(), "holds 2, but 'annotated_image_paths' 3"),
        (lambda s: s["segmentations"][0]["1"].pop("rle"), "sequence 1, frame 0, track 1: key 'rle' is missing"),
        (lambda s: s["track_category_ids"].pop("1"), "track 1 has no class in 'track_category_ids'"),
        (
            lambda s: (s["segmentations"].pop(), s["annotated_image_paths"].pop()),
            "annotated picture 'frame0021.png' is not among its frames",
        ),
    ],
)
def test_burst_predictions_that_do_not_fit_are_named(tmp_path: Path, change: Any, message: str) -> None:
    data, _ = files.burst(tmp_path)
    submission = json.loads(json.dumps(burst_submission(data, burst_entries(data))))
    change(submission["sequences"][0])
    with pytest.raises(InstformerError, match=message):
        score_burst(data, submission)
