"""Scores of the public benchmarks from ground truth and predictions; no model is needed, and no torch.

* YouTube-VIS and LV-VIS: video AP and AR (:mod:`.video_ap`); LV-VIS also over base and novel classes.
* UVO: one class, "object": all classes of the predictions count as it (class-agnostic AP and AR).
* HOTA and IDF1 for these three: class-agnostic, tracks of objectness >= 0.3. A track that appears with several classes
  counts once. Where an entry has no ``objectness`` (somebody else's file), its best class score stands in for it.
* BURST: through ``trackeval`` (:mod:`.burst`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instformer_ros import masks as mask_tools
from instformer_ros.data.annotation_file import Entry
from instformer_ros.data.youtube_vis import read_categories, read_splits
from instformer_ros.evaluation import tracking
from instformer_ros.evaluation.burst import score_burst
from instformer_ros.evaluation.tracking import LEAST_SCORE, FrameObjects, TrackingVideo
from instformer_ros.evaluation.video_ap import Scores, VideoAp
from instformer_ros.structures import InstformerError

BENCHMARKS = ("youtube-vis", "lv-vis", "uvo", "burst")
Numbers = dict[str, Any]


def score(benchmark: str, truth: Mapping[str, Any], predictions: Any, source: str = "ground truth") -> Numbers:
    """All numbers of a benchmark, each in [0, 1], NaN where undefined.

    Args:
        benchmark: one of :data:`BENCHMARKS`.
        truth: its annotation file.
        predictions: a file of results in the benchmark's own format.
        source: name of the annotation file, for errors.

    Returns:
        The numbers over all classes on the top level, and ``splits`` for base / novel or common / uncommon.

    Raises:
        InstformerError: what is missing or does not fit, by name.
    """
    if benchmark == "burst":
        splits = score_burst(truth, predictions)
        return {**splits.pop("all"), "splits": splits}
    if not isinstance(predictions, list):
        raise InstformerError("predictions: expected a list of {video_id, category_id, score, segmentations}")
    if benchmark == "uvo":
        truth, predictions = _one_class(truth, predictions)
    elif benchmark == "lv-vis" and not read_splits(Entry(truth, source)):
        raise InstformerError(f"{source}: no category has a 'partition'; use LV-VIS's own annotations")
    ap = VideoAp(truth, predictions)
    scores = ap.score(class_agnostic=benchmark == "uvo")
    return {**scores.summary(), **_tracking(truth, predictions), "splits": _splits(truth, scores, source)}


def _splits(truth: Mapping[str, Any], scores: Scores, source: str) -> Numbers:
    """AP and AR over base and novel classes, where the file tells them apart."""
    root = Entry(truth, source)
    names, splits = read_categories(root), read_splits(root)
    return {
        split: scores.select([i for i, name in names.items() if name in set(classes)]).summary()
        for split, classes in splits.items()
    }


def _one_class(truth: Mapping[str, Any], predictions: Sequence[Any]) -> tuple[Mapping[str, Any], list[Any]]:
    """Whatever class a prediction names becomes UVO's only one."""
    categories = Entry(truth, "ground truth").entries("categories", "category")
    if not categories:
        raise InstformerError("ground truth: key 'categories' is empty; expected UVO's one class")
    only = categories[0].integer("id")
    known = [{**p, "category_id": only} if isinstance(p, Mapping) else p for p in predictions]
    annotations = [{**a, "category_id": only} for a in truth["annotations"]]
    return {**truth, "annotations": annotations}, known


def _tracking(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> Numbers:
    """HOTA and IDF1, class-agnostic; empty where trackeval is not installed."""
    if not tracking.is_available():
        return {}
    videos = {int(v["id"]): v for v in truth["videos"]}
    there = {i: [FrameObjects() for _ in range(int(v["length"]))] for i, v in videos.items()}
    found = {i: [FrameObjects() for _ in range(int(v["length"]))] for i, v in videos.items()}
    ignored: dict[int, set[int]] = {i: set() for i in videos}
    for number, annotation in enumerate(truth["annotations"]):
        video = int(annotation["video_id"])
        if annotation.get("iscrowd") or annotation.get("ignore"):
            ignored[video].add(number)
        _add(there[video], number, annotation["segmentations"], videos[video])
    for number, entry in enumerate(_distinct(predictions)):
        video = int(entry["video_id"])
        _add(found[video], number, entry["segmentations"], videos[video])
    pairs = [TrackingVideo(there[i], found[i]) for i in videos]
    return dict(tracking.score(pairs, [frozenset(ignored[i]) for i in videos]))


def _add(frames: Sequence[FrameObjects], number: int, segmentations: Sequence[Any], video: Mapping[str, Any]) -> None:
    height, width = int(video["height"]), int(video["width"])
    for frame, segmentation in zip(frames, segmentations, strict=True):
        frame.add(number, mask_tools.parse(segmentation, height, width) if segmentation else None)


def _distinct(predictions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The tracks of sufficient objectness, each once, however many classes it appears with."""
    best: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for entry in predictions:
        masks = tuple(s["counts"] if s else None for s in entry["segmentations"])
        key = (entry["video_id"], entry.get("track_id"), masks)
        if key not in best or _objectness(entry) > _objectness(best[key]):
            best[key] = entry
    return [entry for entry in best.values() if _objectness(entry) >= LEAST_SCORE]


def _objectness(entry: Mapping[str, Any]) -> float:
    return float(entry.get("objectness", entry["score"]))


def format_table(benchmark: str, numbers: Mapping[str, Any]) -> str:
    """The numbers for people, in per cent, one line a split."""
    wanted = ("AP", "AP50", "AP75", "AR1", "AR10", "AR100", "HOTA", "DetA", "AssA", "IDF1")
    columns = [c for c in wanted if c in numbers]
    rows = {"all": numbers, **numbers["splits"]}
    lines = ["".join(f"{head:>10}" for head in (benchmark, *columns))]
    for name, row in rows.items():
        cells = [f"{100 * row[c]:.1f}" if c in row and not np.isnan(row[c]) else "-" for c in columns]
        lines.append("".join(f"{cell:>10}" for cell in (name, *cells)))
    return "\n".join(lines)
