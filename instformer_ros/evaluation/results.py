"""From tracked frames to whole tracks, and from tracks to entries of the YouTube-VIS results format."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instformer_ros import masks as mask_tools
from instformer_ros.structures import InstformerError, Rle, TrackedFrame, TrackedInstance

BEST_PAIRS = 100  # (track, class) pairs kept for each video, as many as the evaluator looks at
CLASS_AGNOSTIC = "object"  # the one category of an empty vocabulary


@dataclass
class VideoTrack:
    """One track over its whole video."""

    track_id: int
    masks: list[Rle | None]  # one a frame; None where the track was not seen
    objectness: list[float] = field(default_factory=list)  # of the frames in which it was seen
    class_scores: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # (K,) the latest; sums to <= 1
    first: int = -1  # frames in which it was seen first and last
    last: int = -1

    @property
    def frames(self) -> int:
        """Number of frames in which it was seen."""
        return len(self.objectness)

    @property
    def mean_objectness(self) -> float:
        """Mean over the frames in which it was seen, in [0, 1]."""
        return float(np.mean(self.objectness)) if self.objectness else 0.0


class TrackCollector:
    """Takes the frames of one video in order and gives its tracks, each as long as the video.

    A track is *seen* in a frame if its mask there has pixels. Its class distribution is the latest one: the running
    mean over its life. Where instances bear no ``class_scores``, their one published class takes their place.
    """

    def __init__(self) -> None:
        self.length = 0
        self.height = 0
        self.width = 0
        self.names: tuple[str, ...] = ()
        self._tracks: dict[int, VideoTrack] = {}

    def add(self, frame: TrackedFrame) -> None:
        """Adds the next frame.

        Raises:
            InstformerError: its size or the words of its vocabulary are not those of the frames before.
        """
        if self.length == 0:
            self.height, self.width, self.names = frame.height, frame.width, frame.vocabulary.names
        elif (frame.height, frame.width) != (self.height, self.width):
            raise InstformerError(
                f"frame {self.length}: {frame.width}x{frame.height} pixels after {self.width}x{self.height}; "
                "all frames of a video must have one size"
            )
        elif frame.vocabulary.names != self.names:
            raise InstformerError(f"frame {self.length}: the vocabulary changed; one video needs one vocabulary")
        for instance in frame.instances:
            self._add(instance)
        self.length += 1
        for track in self._tracks.values():
            track.masks.extend([None] * (self.length - len(track.masks)))

    def tracks(self) -> list[VideoTrack]:
        """All tracks that were seen at least once, by id."""
        return [track for _, track in sorted(self._tracks.items()) if track.frames]

    def _add(self, instance: TrackedInstance) -> None:
        track = self._tracks.get(instance.track_id)
        if track is None:
            track = self._tracks[instance.track_id] = VideoTrack(instance.track_id, [None] * self.length)
        if mask_tools.area(instance.rle) > 0:
            track.masks.append(instance.rle)
            track.objectness.append(instance.objectness)
            track.first = self.length if track.first < 0 else track.first
            track.last = self.length
        track.class_scores = self._class_scores(instance)

    def _class_scores(self, instance: TrackedInstance) -> NDArray[np.float64]:
        if instance.class_scores is not None:
            return np.asarray(instance.class_scores, dtype=np.float64)
        scores = np.zeros(len(self.names))
        if 0 <= instance.class_index < len(scores) and instance.objectness > 0:
            scores[instance.class_index] = min(instance.score / instance.objectness, 1.0)
        return scores


def result_entries(
    tracks: Sequence[VideoTrack],
    video_id: int,
    names: Sequence[str],
    limit: int = BEST_PAIRS,
    classes_per_track: int | None = None,
) -> list[dict[str, Any]]:
    """Entries of the YouTube-VIS results format, best first.

    A track's score for a class is its mean objectness times the class's final probability; a track may appear with
    several classes. Beside the format's keys each entry has ``track_id``, ``category_name`` and ``objectness``.

    Args:
        names: the vocabulary; category ids count from 1. Empty: each track appears once, as an "object".
        limit: how many (track, class) pairs are kept.
        classes_per_track: so many classes for each track; None: all that have a score above 0.

    Raises:
        InstformerError: a track's class scores do not belong to ``names``.
    """
    if not tracks:
        return []
    if names:
        for track in tracks:
            if len(track.class_scores) != len(names):
                raise InstformerError(
                    f"track {track.track_id}: {len(track.class_scores)} class scores for {len(names)} words"
                )
        classes = np.stack([t.class_scores for t in tracks])  # (N, K)
    else:
        names, classes = (CLASS_AGNOSTIC,), np.ones((len(tracks), 1))
    scores = classes * np.array([t.mean_objectness for t in tracks])[:, None]
    if classes_per_track is None:
        allowed = scores > 0  # what is surely wrong is not said
    else:
        rank = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1)
        allowed = rank < classes_per_track
    order = np.argsort(-scores, axis=None, kind="stable")
    order = order[allowed.ravel()[order]][:limit]
    masks: dict[int, list[dict[str, Any] | None]] = {}
    entries = []
    for row, column in zip(*np.unravel_index(order, scores.shape), strict=True):
        track = tracks[row]
        if track.track_id not in masks:  # the pairs of one track share its masks
            masks[track.track_id] = [None if m is None else _json_rle(m) for m in track.masks]
        entries.append(
            {
                "video_id": video_id,
                "category_id": int(column) + 1,
                "category_name": names[column],
                "track_id": track.track_id,
                "score": float(scores[row, column]),
                "objectness": track.mean_objectness,
                "segmentations": masks[track.track_id],
            }
        )
    return entries


def write_json(path: str | Path, data: Any) -> None:
    """Writes a file that is whole or not there; NaN becomes null, since JSON knows none.

    Raises:
        InstformerError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(json.dumps(_without_nan(data), indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise InstformerError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def check_writable(path: Path | None) -> None:
    """Makes the folder of a file that is going to be written.

    Raises:
        InstformerError: the file cannot be written; better known before a long run.
    """
    if path is None:
        return
    if path.is_dir():
        raise InstformerError(f"{path}: is a folder; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(path.name + ".part")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InstformerError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def _json_rle(rle: Rle) -> dict[str, Any]:
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _without_nan(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_nan(value) for value in data]
    if isinstance(data, np.generic):
        data = data.item()
    return None if isinstance(data, float) and not math.isfinite(data) else data
