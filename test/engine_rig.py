"""What the tests of the engine share: a loose way of publishing, pictures, and when two answers are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from instformer_ros import masks as rle
from instformer_ros.data.toyvis import ToyVideo
from instformer_ros.settings import Settings
from instformer_ros.structures import TrackedFrame

Image = NDArray[np.uint8]
CPU = torch.device("cpu")
WORDS = ("red circle", "blue star", "mug")
LOOSE = Settings(
    score_threshold=0, objectness_threshold=0, keep_threshold=0, duplicate_threshold=1, negatives=False,
    class_scores=True,
)  # fmt: skip


def frames_of(seed: int, count: int = 6) -> list[Image]:
    video = ToyVideo(seed)
    return [video.frame(t)[0] for t in range(count)]


def same(
    first: TrackedFrame, second: TrackedFrame, ids: Mapping[int, int] | None = None, tolerance: float = 0.0
) -> None:
    """Are two answers equal, up to a renaming of IDs and, with a tolerance, to rounding?"""
    assert (first.height, first.width, first.frame_index) == (second.height, second.width, second.frame_index)
    renamed = {a.track_id: a.track_id if ids is None else ids[a.track_id] for a in first.instances}
    assert [renamed[a.track_id] for a in first.instances] == [b.track_id for b in second.instances]
    for a, b in zip(first.instances, second.instances, strict=True):
        assert (a.state, a.age, a.frames_since_seen) == (b.state, b.age, b.frames_since_seen)
        assert abs(a.score - b.score) <= tolerance
        assert abs(a.objectness - b.objectness) <= tolerance
        assert a.class_scores is not None
        assert b.class_scores is not None
        assert np.abs(a.class_scores - b.class_scores).max() <= tolerance
        if tolerance:  # a pixel whose logit is nought but for rounding may fall either way
            assert np.count_nonzero(rle.decode(a.rle) != rle.decode(b.rle)) <= 20
        else:
            assert a.rle == b.rle
            assert (a.class_index, a.class_name, a.box) == (b.class_index, b.class_name, b.box)


def pairing(first: Sequence[TrackedFrame], second: Sequence[TrackedFrame]) -> dict[int, int]:
    """IDs of one run to those of another, by order of birth."""
    numbers = [sorted({i.track_id for frame in run for i in frame.instances}) for run in (first, second)]
    return dict(zip(*numbers, strict=True))
