"""HOTA (Luiten et al. 2021) and IDF1 (Ristani et al. 2016) of mask tracks, through ``trackeval``, in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from instformer_ros import masks as mask_tools
from instformer_ros.structures import InstformerError, Rle

LEAST_SCORE = 0.3  # detections below it are not scored (class-agnostic: the score is the objectness)
LEAST_IOU = 0.5  # to match a detection with an ignored object


@dataclass
class FrameObjects:
    """The objects of one frame: ids and masks in the same order. Objects that cannot be seen are left out."""

    ids: list[int] = field(default_factory=list)
    masks: list[Rle] = field(default_factory=list)

    def add(self, object_id: int, mask: Rle | None) -> None:
        """Adds an object, unless its mask is null or empty."""
        if mask is not None and mask_tools.area(mask) > 0:
            self.ids.append(object_id)
            self.masks.append(mask)


@dataclass
class TrackingVideo:
    """One video: what is there (``truth``) and what was found (``found``), frame by frame."""

    truth: list[FrameObjects]
    found: list[FrameObjects]
    _ious: list[NDArray[np.float64]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if len(self.truth) != len(self.found):
            raise InstformerError(
                f"tracks of {len(self.found)} frames for a video of {len(self.truth)}; give an empty frame where "
                "nothing was found"
            )

    def ious(self) -> list[NDArray[np.float64]]:
        """IoU of every pair in every frame, each (truths, found); measured once."""
        if not self._ious:
            self._ious = [mask_iou(t.masks, f.masks) for t, f in zip(self.truth, self.found, strict=True)]
        return self._ious


def mask_iou(a: Sequence[Rle], b: Sequence[Rle]) -> NDArray[np.float64]:
    """IoU of every mask of ``a`` with every one of ``b``: (len(a), len(b)), in [0, 1]. Sizes must be equal."""
    if not a or not b:
        return np.zeros((len(a), len(b)))
    out: NDArray[np.float64] = np.asarray(coco_mask.iou(list(a), list(b), [0] * len(b)), dtype=np.float64)
    if out.min() < 0:  # pycocotools' sign for masks of different sizes
        raise InstformerError("masks of different sizes cannot be compared; both must have the size of the video")
    return out


def score(videos: Iterable[TrackingVideo], ignored: Iterable[frozenset[int]] | None = None) -> dict[str, float]:
    """Class-agnostic tracking scores over all videos.

    Args:
        videos: the videos.
        ignored: for each video the ids of true objects that do not count. In every frame detections are assigned to all
            objects (Hungarian, IoU >= 0.5); those that fall to ignored ones are removed with them before scoring.

    Returns:
        HOTA, DetA, AssA (means over the 19 localisation thresholds), IDF1, IDP, IDR, each in [0, 1], or NaN if there is
        no true object to be scored.

    Raises:
        InstformerError: trackeval is not installed.
    """
    hota, identity = _metrics()
    videos = list(videos)
    sets = [frozenset[int]()] * len(videos) if ignored is None else list(ignored)
    data = [_sequence(video, skip) for video, skip in zip(videos, sets, strict=True)]
    if not any(d["num_gt_dets"] for d in data):
        return dict.fromkeys(("HOTA", "DetA", "AssA", "IDF1", "IDP", "IDR"), math.nan)
    hota_all = hota.combine_sequences({n: hota.eval_sequence(d) for n, d in enumerate(data)})
    identity_all = identity.combine_sequences({n: identity.eval_sequence(d) for n, d in enumerate(data)})
    return {
        **{name: float(np.mean(hota_all[name])) for name in ("HOTA", "DetA", "AssA")},
        **{name: float(identity_all[name]) for name in ("IDF1", "IDP", "IDR")},
    }


def is_available() -> bool:
    """Is trackeval installed?"""
    return find_spec("trackeval") is not None


def _metrics() -> tuple[Any, Any]:
    try:
        from trackeval.metrics import HOTA, Identity  # late: it imports matplotlib
    except ImportError as error:
        raise InstformerError("HOTA and IDF1 need trackeval; run 'pip install trackeval'") from error
    return HOTA(), Identity({"THRESHOLD": 0.5, "PRINT_CONFIG": False})


def _sequence(video: TrackingVideo, ignored: frozenset[int]) -> dict[str, Any]:
    """One video as trackeval's metrics take it: ids counted from 0, similarity matrices by frame."""
    truth_ids, found_ids, similarities = [], [], []
    for truth, found, iou in zip(video.truth, video.found, video.ious(), strict=True):
        keep_truth = np.array([i not in ignored for i in truth.ids], dtype=bool)
        keep_found = np.ones(len(found.ids), dtype=bool)
        if not keep_truth.all() and keep_found.size:
            rows, columns = linear_sum_assignment(np.where(iou >= LEAST_IOU, iou, 0.0), maximize=True)
            matched = (iou[rows, columns] >= LEAST_IOU) & ~keep_truth[rows]
            keep_found[columns[matched]] = False
        truth_ids.append(np.array(truth.ids, dtype=int)[keep_truth])
        found_ids.append(np.array(found.ids, dtype=int)[keep_found])
        similarities.append(iou[np.ix_(keep_truth, keep_found)])
    truth_names, truth_ids = _renumber(truth_ids)
    found_names, found_ids = _renumber(found_ids)
    return {
        "num_gt_dets": sum(map(len, truth_ids)),
        "num_tracker_dets": sum(map(len, found_ids)),
        "num_gt_ids": truth_names,
        "num_tracker_ids": found_names,
        "gt_ids": truth_ids,
        "tracker_ids": found_ids,
        "similarity_scores": similarities,
    }


def _renumber(ids: list[NDArray[np.int64]]) -> tuple[int, list[NDArray[np.int64]]]:
    names = np.unique(np.concatenate(ids)) if ids else np.zeros(0, dtype=int)
    return len(names), [np.searchsorted(names, some) for some in ids]
