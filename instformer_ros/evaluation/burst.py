"""BURST (Athar et al. 2023) through ``trackeval``: HOTA and track AP, averaged over the classes that occur.

``trackeval`` holds the rules: federated labels (a class that a sequence lists nowhere is not judged there), the score
of a track as the mean over its frames, distractor classes. Ours is the way in, the choice of classes and the averages.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from instformer_ros.data.annotation_file import Entry
from instformer_ros.data.burst import COMMON
from instformer_ros.structures import InstformerError

METRICS = ("HOTA", "DetA", "AssA", "AP")


def score_burst(
    truth: Mapping[str, Any],
    predictions: Mapping[str, Any],
    progress: Callable[[int], object] = lambda sequences: None,
) -> dict[str, dict[str, float]]:
    """``{"all" | "common" | "uncommon": {"HOTA", "DetA", "AssA", "AP", "classes"}}``, each in [0, 1]; NaN = undefined.

    Args:
        truth: ground truth in the BURST format, with the categories' ids of LVIS, as BURST has them.
        predictions: likewise; ``segmentations`` may hold a ``score`` for each mask.
        progress: told of sequences as they are done.

    Raises:
        InstformerError: trackeval is not installed, or the files do not fit each other.
    """
    check_predictions(truth, predictions)
    with _dataset(truth, predictions) as data:
        hota, track_map = _metrics()
        per_class: dict[str, list[dict[str, Any]]] = {name: [] for name in data.class_list}
        for sequence in data.seq_list:
            raw = data.get_raw_seq_data("ours", sequence)
            for name, results in per_class.items():
                part = data.get_preprocessed_seq_data(raw, name)
                results.append({"HOTA": hota.eval_sequence(part), "AP": track_map.eval_sequence(part)})
            progress(1)
        ids = {c["name"]: int(c["id"]) for c in data.gt_data["categories"]}
        scores = {name: _combine(results, hota, track_map) for name, results in per_class.items()}
    splits = {
        "all": list(scores),
        "common": [name for name in scores if ids[name] in COMMON],
        "uncommon": [name for name in scores if ids[name] not in COMMON],
    }
    return {split: _average([scores[name] for name in names]) for split, names in splits.items()}


def burst_submission(truth: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Entries of the YouTube-VIS results format, ``video_id`` a sequence's id, as a BURST results file.

    Each (track, class) pair becomes a track of its own; its score stands in each of its frames.
    """
    by_sequence: dict[int, list[Mapping[str, Any]]] = {}
    for entry in entries:
        by_sequence.setdefault(int(entry["video_id"]), []).append(entry)
    sequences = []
    for sequence in truth["sequences"]:
        tracks: dict[str, int] = {}
        frames: list[dict[str, Any]] = [{} for _ in sequence["annotated_image_paths"]]
        for number, entry in enumerate(by_sequence.get(int(sequence["id"]), ()), 1):
            tracks[str(number)] = int(entry["category_id"])
            for frame, rle in zip(frames, entry["segmentations"], strict=True):
                if rle is not None:
                    frame[str(number)] = {"rle": rle["counts"], "score": float(entry["score"])}
        sequences.append({**sequence, "track_category_ids": tracks, "segmentations": frames})
    return {**truth, "sequences": sequences}


def check_predictions(truth: Mapping[str, Any], predictions: Mapping[str, Any]) -> None:
    """Raises InstformerError, naming sequence and key, for predictions that do not fit the ground truth."""
    known = {s.integer("id"): s for s in Entry(truth, "ground truth").entries("sequences", "sequence")}
    if predictions.get("split", truth.get("split")) != truth.get("split"):
        raise InstformerError(
            f"predictions: key 'split' is '{predictions['split']}', but the ground truth's is '{truth.get('split')}'"
        )
    for sequence in Entry(predictions, "predictions").entries("sequences", "sequence"):
        for key in ("dataset", "seq_name"):
            sequence.text(key)
        if sequence.integer("id") not in known:
            raise sequence.error("not in the ground truth")
        frames, paths = sequence.items("segmentations"), sequence.texts("annotated_image_paths")
        if len(frames) != len(paths):
            raise sequence.error(f"key 'segmentations' holds {len(frames)}, but 'annotated_image_paths' {len(paths)}")
        missing = set(known[sequence.integer("id")].texts("annotated_image_paths")) - set(paths)
        if missing:
            raise sequence.error(f"annotated picture '{min(missing)}' is not among its frames; give all of them")
        classes = sequence.get("track_category_ids") or {}
        for t, frame in enumerate(frames):
            for track, mask in frame.items():
                Entry(mask, f"{sequence.where}, frame {t}, track {track}").text("rle")
                if "category_id" not in mask and track not in classes:
                    raise sequence.error(f"track {track} has no class in 'track_category_ids'")


@contextmanager
def _dataset(truth: Mapping[str, Any], predictions: Mapping[str, Any]) -> Any:
    """trackeval's reader, which wants a folder of files and talks a lot."""
    try:
        from trackeval.datasets import BURST
    except ImportError as error:
        raise InstformerError("BURST needs trackeval; run 'pip install trackeval'") from error
    with tempfile.TemporaryDirectory() as folder:
        truth_folder, found_folder = Path(folder, "truth"), Path(folder, "found", "ours", "data")
        for path, data in ((truth_folder, truth), (found_folder, predictions)):
            path.mkdir(parents=True)
            (path / "burst.json").write_text(json.dumps(data))
        config = {
            "GT_FOLDER": str(truth_folder),
            "TRACKERS_FOLDER": str(found_folder.parents[1]),
            "TRACKERS_TO_EVAL": ["ours"],
            "PRINT_CONFIG": False,
        }
        with redirect_stdout(io.StringIO()):
            yield BURST(config)


def _metrics() -> tuple[Any, Any]:
    from trackeval.metrics import HOTA, TrackMAP  # late: it imports matplotlib

    return HOTA(), TrackMAP({"PRINT_CONFIG": False, "USE_AREA_RANGES": False, "USE_TIME_RANGES": False})


def _combine(results: Sequence[Mapping[str, Any]], hota: Any, track_map: Any) -> dict[str, float]:
    """One class over all sequences."""
    tracks = hota.combine_sequences({n: r["HOTA"] for n, r in enumerate(results)})
    precision = track_map.combine_sequences({n: r["AP"] for n, r in enumerate(results)})
    return {
        **{key: float(np.mean(tracks[key])) for key in ("HOTA", "DetA", "AssA")},
        "AP": float(np.mean(precision["AP_all"])),
    }


def _average(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    means = {key: float(np.mean([s[key] for s in scores])) if scores else float("nan") for key in METRICS}
    return {**means, "classes": len(scores)}
