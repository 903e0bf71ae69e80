"""An engine without a model: two things per image, named by the vocabulary in force."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instformer_ros import masks
from instformer_ros.settings import Settings
from instformer_ros.structures import InstformerError, Session, TrackedFrame, TrackedInstance, TrackState, Vocabulary


@dataclass
class Answered:
    """A frame that has been answered."""

    frame: TrackedFrame

    def finish(self) -> TrackedFrame:
        return self.frame


@dataclass
class FakeEngine:
    """Looks at the vocabulary twice within a step, so a change in the middle of a frame would show."""

    settings: Settings = field(default_factory=Settings)
    step_time: float = 0.0  # seconds
    encode_time: float = 0.0  # seconds
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    unknown_words: tuple[str, ...] = ()
    steps: list[dict[str, tuple[int, ...]]] = field(default_factory=list)  # image shapes by camera
    warm: bool = False
    resets: int = 0
    closed: bool = False
    device: str = "cpu"
    device_memory: int = 0
    shortage: str = ""
    session: Session = field(default_factory=Session)
    fault: Exception | None = None  # raised by every step while it is set
    _frames: dict[str, int] = field(default_factory=dict)

    def warm_up(self) -> None:
        self.warm = True

    def encode_vocabulary(self, names: Sequence[str], pause: Callable[[float], None] | None = None) -> tuple[str, ...]:
        time.sleep(self.encode_time)
        if pause is not None:
            pause(0.0)
        if "unspeakable" in names:
            raise InstformerError("vocabulary: 'unspeakable' cannot be encoded; use another word")
        return tuple(names)

    def use_vocabulary(self, encoded: tuple[str, ...]) -> Vocabulary:
        self.session.vocabulary_version += 1
        self.vocabulary = Vocabulary(self.session.vocabulary_version, encoded)
        return self.vocabulary

    def begin(self, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, Answered]:
        if self.fault is not None:
            raise self.fault
        self.steps.append({camera: image.shape for camera, image in images.items()})
        return {camera: Answered(self._frame(camera, image)) for camera, image in images.items()}

    def reset(self, camera: str | None = None) -> None:
        self.resets += 1
        if camera is None:
            self._frames.clear()
        else:
            self._frames.pop(camera, None)

    def close(self) -> None:
        self.closed = True

    def _frame(self, camera: str, image: NDArray[np.uint8]) -> TrackedFrame:
        height, width = image.shape[:2]
        before = self.vocabulary
        time.sleep(self.step_time)
        names = self.vocabulary.names
        index = self._frames[camera] = self._frames.get(camera, -1) + 1
        frame = TrackedFrame(height, width, Vocabulary(before.version, names), index)
        for track_id in (1, 2):
            mask = np.zeros((height, width), dtype=bool)
            mask[: height // 2, (track_id - 1) * width // 2 : track_id * width // 2] = True
            rle = masks.encode(mask)
            known = bool(names)
            class_index = track_id % len(names) if known else -1
            frame.instances.append(
                TrackedInstance(
                    track_id=track_id,
                    state=TrackState.TRACKED if index else TrackState.NEW,
                    age=index + 1,
                    frames_since_seen=0,
                    label_value=track_id,
                    class_index=class_index,
                    class_name=names[class_index] if known else "",
                    score=0.25 * track_id,
                    objectness=0.5,
                    box=masks.box(rle),
                    rle=rle,
                    class_scores=np.full(len(names), 0.125, np.float32) if self.settings.class_scores else None,
                )
            )
        frame.instances = [i for i in frame.instances if i.score >= self.settings.score_threshold]
        return frame


@dataclass
class Loader:
    """Stands for ``Engine.load``; keeps the engines it made."""

    faults: dict[str, str] = field(default_factory=dict)  # model or device -> why it cannot be loaded
    engine_arguments: dict[str, Any] = field(default_factory=dict)
    engines: list[FakeEngine] = field(default_factory=list)

    def __call__(self, model: str, device: str, settings: Settings, *, precision: str, session: Session) -> FakeEngine:
        for thing in (model, device):
            if thing in self.faults:
                raise InstformerError(self.faults[thing])
        self.engines.append(FakeEngine(settings=settings, session=session, **self.engine_arguments))
        return self.engines[-1]

    @property
    def engine(self) -> FakeEngine:
        return self.engines[-1]
