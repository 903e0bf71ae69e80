"""Stand-ins for ``instformer_ros.engine`` that know ToyVIS's truth, so that the programs around it can be tested."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from instformer_ros import masks
from instformer_ros.data.toyvis import ToyVideo
from instformer_ros.evaluation.toyvis_run import video_seeds
from instformer_ros.settings import Settings
from instformer_ros.structures import InstformerError, TrackedFrame, TrackedInstance, TrackState, Vocabulary


def tracked(track_id: int, mask: NDArray[np.bool_], names: Sequence[str], name: str, objectness: float = 1.0) -> Any:
    """An instance that is sure to be a ``name``."""
    rle = masks.encode(mask)
    scores = np.array([n == name for n in names], dtype=np.float32)
    return TrackedInstance(
        track_id=track_id,
        state=TrackState.TRACKED if mask.any() else TrackState.COASTING,
        age=1,
        frames_since_seen=0,
        label_value=track_id,
        class_index=list(names).index(name) if name in names else -1,
        class_name=name if name in names else "",
        score=objectness,
        objectness=objectness,
        box=masks.box(rle),
        rle=rle,
        class_scores=scores,
    )


class Oracle:
    """Answers ToyVIS videos with the truth; the methods below are to be overridden by what shall go wrong."""

    def __init__(self, seed: int, count: int, parallel: int = 1) -> None:
        self.videos = [ToyVideo(s) for s in video_seeds(seed, count)]
        self.parallel = parallel
        self.names: tuple[str, ...] = ()
        self.settings = Settings()
        self.batch = -1
        self.clock: dict[str, int] = {}

    def set_vocabulary(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def reset(self, camera: str | None = None) -> None:
        assert camera is None
        self.batch += 1
        self.clock = {}

    def step(self, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, TrackedFrame]:
        return {camera: self.answer(camera, image) for camera, image in images.items()}

    def step_with_masks(
        self, images: Mapping[str, NDArray[np.uint8]], given: Mapping[str, NDArray[np.bool_]]
    ) -> dict[str, TrackedFrame]:
        assert images.keys() == given.keys() and all(m.any(axis=(1, 2)).all() for m in given.values())
        return {camera: self.answer(camera, image) for camera, image in images.items()}

    def answer(self, camera: str, image: NDArray[np.uint8]) -> TrackedFrame:
        t = self.clock.get(camera, 0)
        self.clock[camera] = t + 1
        video = self.videos[self.batch * self.parallel + int(camera.split()[0])]
        expected, visible = video.frame(t)
        np.testing.assert_array_equal(image, expected)
        instances = [
            tracked(self.identity(n, t), self.mask(mask), self.names, self.name(video.names[n]))
            for n, mask in enumerate(visible)
        ]
        height, width = image.shape[:2]
        return TrackedFrame(height, width, Vocabulary(1, self.names), t, instances)

    def identity(self, n: int, t: int) -> int:
        return n + 1

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return mask

    def name(self, name: str) -> str:
        return name


def install(monkeypatch: Any) -> types.ModuleType:
    """Puts a fake ``instformer_ros.engine`` in place: a moving square is seen, and named by the first word."""
    module = types.ModuleType("instformer_ros.engine")

    used: list[Settings] = []
    module.used = used  # type: ignore[attr-defined]

    class Engine:
        unknown_words: tuple[str, ...] = ("zebra",)
        closed = 0
        device = torch.device("cpu")

        @classmethod
        def load(cls, model: str = "toyvis", device: str = "auto", settings: Any = None, **how: Any) -> Engine:
            if model != "toyvis" and not Path(model).exists():
                raise InstformerError(f"model '{model}': no such checkpoint; give 'toyvis' or a file")
            if device not in ("auto", "cpu"):
                raise InstformerError(f"device '{device}': not available here; use cpu")
            engine = cls()
            engine.settings = settings or Settings()
            module.last = engine  # type: ignore[attr-defined]
            module.loaded_with = how  # type: ignore[attr-defined]
            return engine

        def set_vocabulary(self, names: Sequence[str]) -> None:
            if any(len(name) > 200 for name in names):
                raise InstformerError("vocabulary: a word is longer than 200 characters; shorten it")
            self.vocabulary = Vocabulary(1, tuple(names))
            self.count = 0

        def reset(self, camera: str | None = None) -> None:
            self.count = 0

        def step(self, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, TrackedFrame]:
            used.append(self.settings)
            return {camera: self.see(image) for camera, image in images.items()}

        def step_with_masks(self, images: Mapping[str, NDArray[np.uint8]], given: Any) -> dict[str, TrackedFrame]:
            used.append(self.settings)
            return self.step(images)

        def see(self, image: NDArray[np.uint8]) -> TrackedFrame:
            height, width = image.shape[:2]
            mask = np.zeros((height, width), dtype=bool)
            mask[2:8, self.count % 4 : 6 + self.count % 4] = True
            names = self.vocabulary.names
            instance = tracked(5, mask, names, names[0] if names else "", 0.75)
            self.count += 1
            stages = {"proposals": 0.001, "instclip": 0.002}
            return TrackedFrame(height, width, self.vocabulary, self.count - 1, [instance], stages)

        def close(self) -> None:
            type(self).closed += 1

    def parse_vocabulary(text: str) -> list[str]:
        return [word.strip() for word in text.split(",") if word.strip()]

    module.Engine = Engine  # type: ignore[attr-defined]
    module.Settings = Settings  # type: ignore[attr-defined]
    module.parse_vocabulary = parse_vocabulary  # type: ignore[attr-defined]
    users = ("instformer_ros.segment", "instformer_ros.evaluation.toyvis_command")  # they hold names of an engine
    for name in users:
        importlib.import_module(name)  # with the real one, which comes back after the test
    monkeypatch.setitem(sys.modules, "instformer_ros.engine", module)
    for name in users:
        monkeypatch.delitem(sys.modules, name)
    return module
