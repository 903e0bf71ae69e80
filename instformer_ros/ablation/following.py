"""From what was seen to named tracks and their scores. Beside our own tracker: those that a user would else take."""

from __future__ import annotations

import importlib.util
import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instformer_ros.ablation.seeing import SeenFrame, SeenVideo
from instformer_ros.ablation.systems import Follower
from instformer_ros.data.toyvis import ALL_NAMES, SPLITS, class_names
from instformer_ros.evaluation import tracking
from instformer_ros.evaluation.results import VideoTrack
from instformer_ros.evaluation.toyvis import agnostic_entries, dataset, entries
from instformer_ros.evaluation.toyvis_run import VideoRun
from instformer_ros.evaluation.tracking import LEAST_IOU, LEAST_SCORE, FrameObjects, TrackingVideo
from instformer_ros.evaluation.video_ap import VideoAp
from instformer_ros.model.config import RolloutConfig
from instformer_ros.model.rollout import RolloutTracker
from instformer_ros.model.vocabulary import class_scores
from instformer_ros.settings import Settings
from instformer_ros.structures import Detection, InstformerError
from instformer_ros.tracking.tracker import Gates, ManagedTracker

_LEAST_BOX_IOU = 0.3  # of SORT's, and so of box tracking here


class Associate(Protocol):
    """Follows the objects of one video."""

    def __call__(self, frame: SeenFrame, tokens: Tensor) -> list[tuple[int, int]]:
        """One frame; ``tokens`` are (K, E). Returns (track id > 0, candidate) pairs."""
        ...


def associate(follower: Follower, rollout: RolloutTracker, settings: Settings) -> Associate:
    """A fresh follower for one video. ``rollout`` serves our own tracker alone.

    Raises:
        InstformerError: the library of SORT and ByteTrack is not installed.
    """
    gates = Gates(settings.objectness_threshold, settings.keep_threshold, settings.match_threshold, settings.max_coast)
    if follower == "rollout":
        return _Managed(ManagedTracker(rollout, itertools.count(1), gates))
    if follower == "box-iou":
        return _Boxes(gates)
    return _Library(follower, gates)


def is_installed(follower: Follower) -> bool:
    """Can it be used here? SORT and ByteTrack need the library ``trackers``."""
    return follower not in ("sort", "bytetrack") or importlib.util.find_spec("trackers") is not None


class _Managed:
    def __init__(self, tracker: ManagedTracker) -> None:
        self._tracker = tracker

    def __call__(self, frame: SeenFrame, tokens: Tensor) -> list[tuple[int, int]]:
        tracks = self._tracker.update(Detection(frame.queries, tokens, frame.objectness))
        return [(track.id, track.proposal) for track in tracks if track.proposal is not None]


class _Boxes(_Managed):
    """The same life cycle, but a track expects its last box where it had it, and likeness is the IoU of boxes."""

    def __init__(self, gates: Gates) -> None:
        still = RolloutTracker(RolloutConfig(kind="none", association="query", normalise_halves=False), 4)
        gates = Gates(gates.birth, gates.match_objectness, _LEAST_BOX_IOU, gates.max_coast)
        super().__init__(_BoxTracker(still, itertools.count(1), gates))

    def __call__(self, frame: SeenFrame, tokens: Tensor) -> list[tuple[int, int]]:
        tracks = self._tracker.update(Detection(torch.from_numpy(frame.boxes), tokens, frame.objectness))
        return [(track.id, track.proposal) for track in tracks if track.proposal is not None]


class _BoxTracker(ManagedTracker):
    def _likeness(self, predicted: Tensor, queries: Tensor, tokens: Tensor) -> Tensor:
        """Boxes are what it has for queries."""
        return torch.from_numpy(box_iou(predicted.double().numpy(), queries.double().numpy()))


class _Library:
    """SORT (Bewley et al. 2016) or ByteTrack (Zhang et al. 2022) from the library ``trackers``, fed the masks' boxes.

    Births at the objectness at which ours are born, kept unseen as long, and confirmed at once.
    """

    def __init__(self, kind: Follower, gates: Gates) -> None:
        try:
            import supervision
            import trackers
        except ImportError as error:
            raise InstformerError(f"{kind} needs the library trackers; run 'pip install trackers'") from error
        self._detections: Any = supervision.Detections
        how: dict[str, Any] = {"lost_track_buffer": gates.max_coast, "minimum_consecutive_frames": 1}
        how["track_activation_threshold"] = gates.birth
        if kind == "sort":
            self._tracker: Any = trackers.SORTTracker(minimum_iou_threshold=_LEAST_BOX_IOU, **how)
        else:
            self._tracker = trackers.ByteTrackTracker(high_conf_det_threshold=gates.birth, **how)

    def __call__(self, frame: SeenFrame, tokens: Tensor) -> list[tuple[int, int]]:
        count = len(frame.masks)
        given = self._detections.empty()
        if count:
            given = self._detections(frame.boxes, confidence=frame.objectness, data={"row": np.arange(count)})
        found = self._tracker.update(given)
        if not len(found):
            return []
        pairs = zip(found.tracker_id, found.data["row"], strict=True)
        return [(int(track) + 1, int(row)) for track, row in pairs if track >= 0]


def box_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of all pairs of (M, 4) and (N, 4) boxes x0, y0, x1, y1 -> (M, N)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    union = (a[:, 2:] - a[:, :2]).prod(-1)[:, None] + (b[:, 2:] - b[:, :2]).prod(-1)[None] - common
    return np.asarray(common / np.maximum(union, 1e-9))


def follow(
    seen: SeenVideo,
    video_id: int,
    tokens: Sequence[Tensor | None],
    by: Associate,
    texts: Tensor,
    logit_scale: Tensor,
    named_every: int = 1,
) -> VideoRun:
    """Follows and names the candidates of one video, as the engine does with the same settings.

    Args:
        seen: its proposals.
        video_id: in the results.
        tokens: instance tokens of the frames, as :func:`.seeing.tokens_of` gives them.
        by: a fresh follower.
        texts: (108, E) embeddings of all names.
        logit_scale: CLIP's.
        named_every: only every so many frames' tokens count for the name, though all may be there for matching.
    """
    length, width = len(seen.frames), texts.shape[1]
    tracks: dict[int, VideoTrack] = {}
    sums: dict[int, Tensor] = defaultdict(lambda: torch.zeros(width, device=texts.device))
    weights: dict[int, float] = defaultdict(float)
    objects = [FrameObjects() for _ in range(length)]
    truth = [FrameObjects() for _ in range(length)]
    for t, (frame, token) in enumerate(zip(seen.frames, tokens, strict=True)):
        for n, rle in enumerate(seen.truth[t]):
            truth[t].add(n, rle)
        given = token if token is not None else texts.new_zeros(len(frame.masks), width)
        for track_id, row in by(frame, given):
            objectness = float(frame.objectness[row])
            track = tracks.setdefault(track_id, VideoTrack(track_id, [None] * length))
            track.masks[t] = frame.masks[row]
            track.objectness.append(objectness)
            track.first, track.last = (t if track.first < 0 else track.first), t
            if token is not None and t % named_every == 0:
                sums[track_id] += objectness * token[row]
                weights[track_id] += objectness
            if objectness >= LEAST_SCORE:
                objects[t].add(track_id, frame.masks[row])
    for track_id, track in tracks.items():
        mean = sums[track_id] / max(weights[track_id], 1e-6)  # a track never looked at is named by chance
        track.class_scores = class_scores(mean[None], texts, None, logit_scale)[0].double().cpu().numpy()
    video, shown = seen.video, [tracks[key] for key in sorted(tracks)]
    return VideoRun(
        video_id, video.height, video.width, tuple(video.names), seen.truth, shown, TrackingVideo(truth, objects)
    )


def score(runs: Sequence[VideoRun]) -> dict[str, float]:
    """The numbers of a cell, each in [0, 1]: those of :mod:`..evaluation.toyvis` for all classes, AP of each split, and

    ``naming``: of the detections that lie on a true object (IoU >= 0.5), the share whose track has the right name.
    """
    truth = dataset(runs)
    named, agnostic = VideoAp(truth, entries(runs)), VideoAp(truth, agnostic_entries(runs))
    every = named.score()
    numbers = {"AP": every.ap(), "AP50": every.ap(0.5), "AR10": every.ar(10)}
    for split in SPLITS:
        chosen = {n for n, name in enumerate(ALL_NAMES, 1) if name in class_names(split)}
        others = [a["id"] for a in truth["annotations"] if a["category_id"] not in chosen]
        numbers[f"AP_{split}"] = named.score(sorted(chosen), others).ap()
    numbers["AR100_agnostic"] = agnostic.score(class_agnostic=True).ar(100)
    followed = tracking.score([run.tracking for run in runs])
    return {**numbers, "IDF1": followed["IDF1"], "HOTA": followed["HOTA"], "naming": _naming(runs)}


def _naming(runs: Sequence[VideoRun]) -> float:
    right = []
    for run in runs:
        names = {track.track_id: ALL_NAMES[int(np.argmax(track.class_scores))] for track in run.tracks}
        for there, found, iou in zip(run.tracking.truth, run.tracking.found, run.tracking.ious(), strict=True):
            for row, column in zip(*tracking.linear_sum_assignment(iou, maximize=True), strict=True):
                if iou[row, column] >= LEAST_IOU:
                    right.append(names[found.ids[column]] == run.names[there.ids[row]])
    return float(np.mean(right)) if right else 0.0
