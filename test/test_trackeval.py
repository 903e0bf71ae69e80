"""Our way into trackeval against trackeval's own: its evaluator on files, on random videos, to 1e-9."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import benchmark_files as files
import numpy as np
import pytest

from instformer_ros.data.burst import COMMON
from instformer_ros.evaluation.benchmarks import score
from instformer_ros.evaluation.burst import score_burst

trackeval = pytest.importorskip("trackeval", reason="trackeval is not installed")

CLOSE = 1e-9


def blob(rng: np.random.Generator, centre: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: files.HEIGHT, : files.WIDTH]
    return np.asarray(np.hypot(x - centre[0], y - centre[1]) < rng.uniform(3, 7))


def tracks(rng: np.random.Generator, length: int, count: int) -> list[list[np.ndarray | None]]:
    """Blobs on straight ways, missing in some frames."""
    out: list[list[np.ndarray | None]] = []
    for _ in range(count):
        start, step = rng.uniform(5, 30, 2), rng.uniform(-1, 1, 2)
        way = [blob(rng, start + step * t) for t in range(length)]
        out.append([m if rng.random() < 0.85 and m.any() else None for m in way])
    return out


def noisy(rng: np.random.Generator, truth: list[list[np.ndarray | None]]) -> list[list[np.ndarray | None]]:
    """Predictions: shifted masks, two identities that swap half-way, one false track."""
    moved = [[None if m is None else np.roll(m, rng.integers(-2, 3, 2), (0, 1)) for m in track] for track in truth]
    half = len(moved[0]) // 2
    if len(moved) > 1:
        moved[0][half:], moved[1][half:] = moved[1][half:], moved[0][half:]
    return [*moved, *tracks(rng, len(moved[0]), 1)]


def evaluated(dataset: Any, metrics: list[Any]) -> dict[str, Any]:
    config = {"PRINT_CONFIG": False, "PRINT_RESULTS": False, "OUTPUT_SUMMARY": False, "OUTPUT_DETAILED": False}
    config |= {"PLOT_CURVES": False, "BREAK_ON_ERROR": True, "TIME_PROGRESS": False, "OUTPUT_EMPTY_CLASSES": False}
    with redirect_stdout(io.StringIO()):
        results, _ = trackeval.Evaluator(config).evaluate([dataset], metrics)
    return results[dataset.get_name()]["ours"]["COMBINED_SEQ"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", range(5))
def test_hota_and_idf1_equal_its_youtube_vis_evaluation(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data: dict[str, Any] = {"videos": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    results: list[dict[str, Any]] = []
    for v in range(1, 5):
        length = int(rng.integers(4, 9))
        names = [f"{v}/{t}.jpg" for t in range(length)]
        size = {"height": files.HEIGHT, "width": files.WIDTH, "length": length}
        data["videos"].append({"id": v, "file_names": names, **size})
        truth = tracks(rng, length, int(rng.integers(1, 4)))
        for group, target in ((truth, data["annotations"]), (noisy(rng, truth), results)):
            for track in group:
                code = files.rle if target is results else files.plain  # as the published files have them
                coded = [None if m is None else code(m) for m in track]
                areas = [None if m is None else int(m.sum()) for m in track]
                entry = {"id": len(target) + 1, "video_id": v, "category_id": 1, "segmentations": coded, "areas": areas}
                target.append({**entry, **({"score": 0.9} if target is results else {"iscrowd": 0, **size})})
    ours = score("uvo", data, results)

    for path, content in (("youtube_vis_x/a.json", data), ("foundyoutube_vis_x/ours/data/a.json", results)):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(json.dumps(content))
    config = {"GT_FOLDER": f"{tmp_path}/", "TRACKERS_FOLDER": f"{tmp_path}/found", "SPLIT_TO_EVAL": "x"}
    config |= {"PRINT_CONFIG": False, "TRACKER_SUB_FOLDER": "data"}  # type: ignore[dict-item]
    dataset = trackeval.datasets.YouTubeVIS(config)
    identity = trackeval.metrics.Identity({"THRESHOLD": 0.5, "PRINT_CONFIG": False})
    theirs = evaluated(dataset, [trackeval.metrics.HOTA(), identity])["object"]
    assert 0.1 < ours["HOTA"] < 0.9
    for key in ("HOTA", "DetA", "AssA"):
        assert ours[key] == pytest.approx(float(np.mean(theirs["HOTA"][key])), abs=CLOSE)
    for key in ("IDF1", "IDP", "IDR"):
        assert ours[key] == pytest.approx(float(theirs["Identity"][key]), abs=CLOSE)


@pytest.mark.parametrize("seed", range(3))
def test_burst_equals_its_burst_evaluation(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = [805, 1, 95, 3]
    truth: dict[str, Any] = {"split": "val", "sequences": [], "categories": [{"id": 1, "name": "acorn"}]}
    found: dict[str, Any] = {"split": "val", "sequences": []}
    for v in range(1, 5):
        length = int(rng.integers(3, 7))
        base = {
            "id": v, "dataset": "HACS", "seq_name": f"s{v}", "height": files.HEIGHT, "width": files.WIDTH,
            "annotated_image_paths": [f"frame{t:04d}.jpg" for t in range(length)],
            "neg_category_ids": [int(rng.choice(classes))], "not_exhaustive_category_ids": [int(rng.choice(classes))],
        }  # fmt: skip
        there = tracks(rng, length, int(rng.integers(1, 5)))
        names = [int(rng.choice(classes[:3])) for _ in there]
        guesses = noisy(rng, there)
        called = [
            names[n] if n < len(names) and rng.random() < 0.8 else int(rng.choice(classes)) for n in range(len(guesses))
        ]
        for target, group, labels in ((truth, there, names), (found, guesses, called)):
            frames = [
                {
                    str(n): {"rle": files.counts(track[t]), "score": round(float(rng.random()), 3)}  # type: ignore[arg-type]
                    for n, track in enumerate(group, 1)
                    if track[t] is not None
                }
                for t in range(length)
            ]
            labelled = {str(n): label for n, label in enumerate(labels, 1)}
            target["sequences"].append({**base, "segmentations": frames, "track_category_ids": labelled})
    ours = score_burst(truth, found)

    for path, content in (("gt/a.json", truth), ("found/ours/data/a.json", found)):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(json.dumps(content))
    config = {"GT_FOLDER": str(tmp_path / "gt"), "TRACKERS_FOLDER": str(tmp_path / "found"), "PRINT_CONFIG": False}
    dataset = trackeval.datasets.BURST(config)
    theirs = evaluated(dataset, [trackeval.metrics.HOTA(), trackeval.metrics.TrackMAP({"PRINT_CONFIG": False})])
    ids = {c["name"]: c["id"] for c in dataset.gt_data["categories"]}
    single = {name: value for name, value in theirs.items() if name in ids}
    groups = {"all": list(single), "common": [n for n in single if ids[n] in COMMON]}
    groups["uncommon"] = [n for n in single if ids[n] not in COMMON]
    assert ours["all"]["classes"] == len(single) >= 2
    for split, members in groups.items():
        for key in ("HOTA", "DetA", "AssA"):
            expected = np.mean([np.mean(single[n]["HOTA"][key]) for n in members])
            assert ours[split][key] == pytest.approx(expected, abs=CLOSE, nan_ok=True)
        expected = np.mean([np.mean(single[n]["TrackMAP"]["AP_all"]) for n in members])
        assert ours[split]["AP"] == pytest.approx(expected, abs=CLOSE, nan_ok=True)
    average = np.mean(theirs["cls_comb_cls_av"]["HOTA"]["HOTA"])  # its own mean over classes
    assert ours["all"]["HOTA"] == pytest.approx(float(average), abs=CLOSE)
