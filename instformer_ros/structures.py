"""The nouns that walk through the house, from pixels to tracked instances.

This module imports nothing of ours. The same :class:`TrackedFrame` feeds the ROS node, the command line, the
evaluation and the overlay.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def printable(text: str) -> str:
    """A text of foreign origin for a log or an error: control characters and halves of surrogate pairs escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class InstformerError(Exception):
    """A problem that the user can mend. Its text is one line, whatever it quotes: it names the thing and the remedy."""

    def __str__(self) -> str:
        return printable(super().__str__())


class DeviceLostError(InstformerError):
    """The device fails at everything that this process asks of it from now on."""


class Rle(TypedDict):
    """A mask in COCO's compressed run-length encoding (column-major), as ``pycocotools`` writes it."""

    size: list[int]  # [height, width]
    counts: bytes


class TrackState(IntEnum):
    """Life of a track; the values equal the constants of ``msg/Instance.msg``."""

    NEW = 1  # born in this frame
    TRACKED = 2  # matched in this frame
    COASTING = 3  # not seen in this frame, kept alive; its mask is empty
    TERMINATED = 4  # ended in this frame; reported once


@dataclass(frozen=True)
class Vocabulary:
    """The words that instances are named with. ``version`` grows by one at every change; empty means class-agnostic."""

    version: int = 0
    names: tuple[str, ...] = ()


@dataclass
class Session:
    """What has been numbered so far: engines that share it, one after the other, give no number twice."""

    track_ids: Iterator[int] = field(default_factory=partial(itertools.count, 1))  # those yet to be given
    vocabulary_version: int = 0  # the latest


@dataclass
class Proposals:
    """What the mask proposal network sees in a batch of B frames (paper Sec. 4.1)."""

    queries: torch.Tensor  # (B, N, C) decoder-normalised queries of the last layer
    objectness: torch.Tensor  # (B, N) 1 - p(no object), in [0, 1]
    mask_logits: torch.Tensor  # (B, N, H/4, W/4) raw logits; > 0 is foreground


@dataclass
class InstanceTokens:
    """Proposals with what InstCLIP says of them (paper Sec. 4.2)."""

    proposals: Proposals
    tokens: torch.Tensor  # (B, N, E) projected, L2-normalised instance tokens


@dataclass
class Detection:
    """The proposals of one frame as a tracker takes them."""

    queries: torch.Tensor  # (N, C) decoder-normalised queries
    tokens: torch.Tensor  # (N, E) L2-normalised instance tokens
    objectness: NDArray[np.float32]  # (N,) rank score in [0, 1]: objectness x mean foreground probability; 0 = dropped


@dataclass
class TrackedInstance:
    """One instance of one frame, as published."""

    track_id: int  # > 0, never reused within a session
    state: TrackState
    age: int  # frames since birth, 1 in the first
    frames_since_seen: int  # 0 when matched in this frame
    label_value: int  # pixel value in the label image, 1..65535
    class_index: int  # index into the vocabulary's names; -1 when the vocabulary is empty
    class_name: str  # "" when the vocabulary is empty
    score: float  # objectness x class score, in [0, 1]
    objectness: float  # in [0, 1]
    box: tuple[int, int, int, int]  # x, y, width, height in pixels; zeros when coasting
    rle: Rle  # full image size; an empty mask when coasting
    class_scores: NDArray[np.float32] | None = None  # (K,) aligned with the vocabulary, or None

    def plain_fields(self) -> dict[str, int | float | str]:
        """The numbers and words that a message holds under the same names."""
        return {
            "track_id": self.track_id,
            "state": int(self.state),
            "age": self.age,
            "frames_since_seen": self.frames_since_seen,
            "label_value": self.label_value,
            "class_index": self.class_index,
            "class_name": self.class_name,
            "score": float(self.score),
            "objectness": float(self.objectness),
        }


@dataclass
class TrackedFrame:
    """The answer to one camera frame."""

    height: int
    width: int
    vocabulary: Vocabulary  # the one that named these instances
    frame_index: int  # counts this camera's frames from 0 since the last reset
    instances: list[TrackedInstance] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage, in order
