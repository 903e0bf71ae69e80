"""Labelled frames for stage 1, by the number of the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instformer_ros.data import toyvis
from instformer_ros.model.guidance import MASK_STRIDE
from instformer_ros.training.matching import Targets


@dataclass
class FrameBatch:
    """Some frames of one size."""

    images: Tensor  # (B, 3, H, W) float32 RGB, 0-255
    targets: Targets

    def to(self, device: torch.device) -> FrameBatch:
        """A copy there; itself if it is there."""
        targets = self.targets
        there = Targets(targets.masks.to(device), targets.counts, targets.labels.to(device))
        return FrameBatch(self.images.to(device), there)


@dataclass
class Frame:
    """One frame with its objects."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    masks: NDArray[np.bool_]  # (K, H, W)
    labels: Sequence[int]  # (K) index into the training vocabulary


def collate(frames: Sequence[Frame], padding: Sequence[float] = (0.0, 0.0, 0.0)) -> FrameBatch:
    """Frames to a batch, padded at the right and at the bottom with the colour ``padding`` (RGB, 0-255).

    They are padded to the size of the largest of them, in multiples of the masks' stride.
    """
    height, width = (
        math.ceil(max(frame.image.shape[axis] for frame in frames) / MASK_STRIDE) * MASK_STRIDE for axis in (0, 1)
    )
    most = max(len(frame.labels) for frame in frames)
    images = np.empty((len(frames), height, width, 3), np.float32)
    images[...] = padding
    masks = np.zeros((len(frames), most, height, width), np.float32)
    labels = np.full((len(frames), most), -1)
    for row, frame in enumerate(frames):
        h, w = frame.image.shape[:2]
        images[row, :h, :w] = frame.image
        masks[row, : len(frame.labels), :h, :w] = frame.masks
        labels[row, : len(frame.labels)] = frame.labels
    targets = Targets(torch.from_numpy(masks), [len(frame.labels) for frame in frames], torch.from_numpy(labels))
    return FrameBatch(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), targets)


class ToyFrames:
    """Batches of ToyVIS's labelled frames. Frames without a visible object are drawn again.

    Args:
        batch: frames of a batch.
        seed: of all chance.
        vocabulary: names of the labelled objects.
        unlabelled: names of objects that are painted but not labelled.
    """

    def __init__(self, batch: int, seed: int, vocabulary: Sequence[str], unlabelled: Sequence[str] = ()) -> None:
        self._batch, self._seed, self._unlabelled = batch, seed, unlabelled
        self._vocabulary = list(vocabulary)

    def __call__(self, number: int) -> FrameBatch:
        return collate([self._frame(number * self._batch + row) for row in range(self._batch)])

    def _frame(self, index: int) -> Frame:
        rng = np.random.default_rng([self._seed, 2, index])
        while True:
            image, masks, names = toyvis.labelled_frame(rng, self._vocabulary, self._unlabelled)
            if names:
                return Frame(image, masks, [self._vocabulary.index(name) for name in names])
