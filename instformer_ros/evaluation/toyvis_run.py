"""Runs an engine over ToyVIS videos and keeps what the scores need: truth, tracks, and the run with true masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from instformer_ros import masks as mask_tools
from instformer_ros.data.toyvis import ALL_NAMES, ToyVideo
from instformer_ros.evaluation.results import TrackCollector, VideoTrack
from instformer_ros.evaluation.tracking import LEAST_SCORE, FrameObjects, TrackingVideo, mask_iou
from instformer_ros.settings import LifeCycle, Settings
from instformer_ros.structures import InstformerError, Rle, TrackedFrame

FIRST_SEED = 1_000_000_000  # evaluation videos start here; training stays below
SEEDS_APART = 10_000  # so many videos has an evaluation seed at most


class Engine(Protocol):
    """What the evaluation asks of an engine."""

    settings: Settings

    def set_vocabulary(self, names: Sequence[str]) -> Any: ...

    def step(self, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, TrackedFrame]: ...

    def step_with_masks(
        self, images: Mapping[str, NDArray[np.uint8]], masks: Mapping[str, NDArray[np.bool_]]
    ) -> dict[str, TrackedFrame]: ...

    def reset(self, camera: str | None = None) -> None: ...


@dataclass
class VideoRun:
    """One video, evaluated. Objects are numbered from 0 in the order of ``names``."""

    video_id: int
    height: int
    width: int
    names: tuple[str, ...]  # class of each object
    truth: list[list[Rle | None]]  # [frame][object]; None where it cannot be seen
    tracks: list[VideoTrack]
    tracking: TrackingVideo  # detections at score >= 0.3
    # of the run with true masks as proposals, where there was one: identities are all that can be wrong
    true_mask_tracking: TrackingVideo = field(default_factory=lambda: TrackingVideo([], []))
    true_mask_names: list[tuple[int, str]] = field(default_factory=list)  # (object, name given) for each visible one

    @property
    def length(self) -> int:
        return len(self.truth)


def video_seeds(seed: int, count: int) -> list[int]:
    """Seeds of the ``count`` videos of an evaluation seed; different evaluation seeds share none.

    Raises:
        InstformerError: ``seed`` is negative or ``count`` not in 1..10000.
    """
    if seed < 0:
        raise InstformerError(f"evaluation seed {seed}: use an integer from 0 up")
    if not 1 <= count <= SEEDS_APART:
        raise InstformerError(f"{count} videos: use 1 to {SEEDS_APART}")
    return [FIRST_SEED + seed * SEEDS_APART + n for n in range(count)]


def settings(life_cycle: LifeCycle = "slots") -> tuple[Settings, Settings]:
    """Engine settings of the two runs: of the video as it is, and with true masks.

    Nothing is withheld, the thresholds are the evaluation's own. A slot is visible from the objectness on that is
    scored. With true masks tracks are always *managed*: slots are founded by the first frame alone, and would have none
    for an object that enters later.
    """
    managed = Settings(life_cycle="managed", negatives=False, score_threshold=0.0, class_scores=True)
    if life_cycle == "managed":
        return managed, managed
    return replace(managed, life_cycle=life_cycle, objectness_threshold=LEAST_SCORE), managed


def run_videos(
    engine: Engine,
    seed: int,
    count: int,
    parallel: int = 1,
    life_cycle: LifeCycle = "slots",
    progress: Callable[[int], object] = lambda frames: None,
) -> list[VideoRun]:
    """Runs ``count`` videos of an evaluation seed, ``parallel`` at a time as cameras of one network pass.

    Every video is run twice: as it is, and with its visible objects' true masks in the place of the proposals' masks.
    The engine's vocabulary changes; its settings are put back at the end. ``progress`` is told of frames done.
    """
    seeds = video_seeds(seed, count)
    before = engine.settings
    engine.set_vocabulary(ALL_NAMES)
    runs = []
    try:
        for start in range(0, count, max(parallel, 1)):
            videos = [ToyVideo(s) for s in seeds[start : start + max(parallel, 1)]]
            runs += _run_together(engine, videos, start + 1, settings(life_cycle), progress)
    finally:
        engine.settings = before
    return runs


def _run_together(
    engine: Engine,
    videos: list[ToyVideo],
    first_id: int,
    how: tuple[Settings, Settings],
    progress: Callable[[int], object],
) -> list[VideoRun]:
    recorders = {str(n): _Recorder(video, first_id + n) for n, video in enumerate(videos)}
    engine.reset()
    for t in range(max(video.length for video in videos)):
        pictures = {c: r.video.frame(t) for c, r in recorders.items() if t < r.video.length}
        images = {camera: image for camera, (image, _) in pictures.items()}
        engine.settings = how[0]
        for camera, frame in engine.step(images).items():
            recorders[camera].add(pictures[camera][1], frame)
        # A camera of its own: the tracks of the two runs must not meet.
        visible = {f"{camera} true masks": m[m.any(axis=(1, 2))] for camera, (_, m) in pictures.items()}
        engine.settings = how[1]
        answers = engine.step_with_masks({f"{camera} true masks": i for camera, i in images.items()}, visible)
        for camera in pictures:
            recorders[camera].add_true_masks(answers[f"{camera} true masks"])
        progress(len(pictures))
    return [recorder.run() for recorder in recorders.values()]


class _Recorder:
    """Collects one video's frames."""

    def __init__(self, video: ToyVideo, video_id: int) -> None:
        self.video = video
        self._id = video_id
        self._truth: list[list[Rle | None]] = []
        self._true_objects: list[FrameObjects] = []
        self._found: list[FrameObjects] = []
        self._with_true_masks: list[FrameObjects] = []
        self._given: list[tuple[int, str]] = []
        self._collector = TrackCollector()

    def add(self, masks: NDArray[np.bool_], frame: TrackedFrame) -> None:
        rles: list[Rle | None] = [mask_tools.encode(m) if m.any() else None for m in masks]
        truth, found = FrameObjects(), FrameObjects()
        for n, rle in enumerate(rles):
            truth.add(n, rle)
        for instance in frame.instances:
            if instance.objectness >= LEAST_SCORE:
                found.add(instance.track_id, instance.rle)
        self._truth.append(rles)
        self._true_objects.append(truth)
        self._found.append(found)
        self._collector.add(frame)

    def add_true_masks(self, frame: TrackedFrame) -> None:
        truth, objects = self._true_objects[-1], FrameObjects()
        seen = [i for i in frame.instances if mask_tools.area(i.rle) > 0]
        ious = mask_iou(truth.masks, [i.rle for i in seen])
        names = dict.fromkeys(truth.ids, "")  # an object that the engine lost counts as named wrongly
        for row, column in zip(*linear_sum_assignment(ious, maximize=True), strict=True):
            if ious[row, column] > 0:
                # The network rounds masks to its grid; with the true one only the identity is judged.
                objects.add(seen[column].track_id, truth.masks[row])
                names[truth.ids[row]] = _best_name(seen[column], frame)
        self._with_true_masks.append(objects)
        self._given += names.items()

    def run(self) -> VideoRun:
        return VideoRun(
            self._id,
            self.video.height,
            self.video.width,
            tuple(self.video.names),
            self._truth,
            self._collector.tracks(),
            TrackingVideo(self._true_objects, self._found),
            TrackingVideo(self._true_objects, self._with_true_masks),
            self._given,
        )


def _best_name(instance: Any, frame: TrackedFrame) -> str:
    if instance.class_scores is None:
        return str(instance.class_name)
    return frame.vocabulary.names[int(np.argmax(instance.class_scores))]
