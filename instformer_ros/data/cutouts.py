"""Videos made on the fly from stills: objects cut out of some pictures move over another one, under their real names.

The masks are exact, objects cover each other, and whoever is cut out is labelled. What the background shows of its own
is not: measure best-mask IoU and identities on these videos, never precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from instformer_ros.data.videos import Image, Masks, VideoDataset
from instformer_ros.structures import InstformerError

_LEAST_AREA = 900  # pixels of an object in its own picture; smaller ones are mush when they are made larger


@dataclass(frozen=True)
class _Cutout:
    """One object on its way: its picture and mask, cropped to its box, and its path."""

    name: str
    image: Image
    mask: NDArray[np.bool_]  # (h, w)
    scale: NDArray[np.float64]  # (T,)
    centre: NDArray[np.float64]  # (T, 2) x, y in pixels of the video


class CutoutVideo:
    """A video of 3-5 cut-outs; the first is furthest back. The same seed is the same video; see :class:`.videos.Video`.

    Args:
        stills: where objects and backgrounds come from.
        seed: of all chance.
        height: of the frames in pixels.
        width: likewise.
        length: frames.

    Raises:
        InstformerError: the stills hold no object that is large enough and lies wholly in its picture.
    """

    def __init__(self, stills: VideoDataset, seed: int, height: int = 192, width: int = 256, length: int = 36) -> None:
        self.height, self.width, self.length = height, width, length
        rng = np.random.default_rng([0xC07, seed])
        order = rng.permutation(len(stills))
        background = stills.videos[int(order[0])].frame(0)[0]
        self._background = np.asarray(cv2.resize(background, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        wanted = int(rng.integers(3, 6))
        self._cutouts: list[_Cutout] = []
        for index in order[1:]:
            if len(self._cutouts) < wanted and (cutout := self._cut(rng, stills, int(index))) is not None:
                self._cutouts.append(cutout)
        if not self._cutouts:
            raise InstformerError(f"data set '{stills.name}': no object to cut out; give more pictures")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self._cutouts)

    def __iter__(self) -> Iterator[tuple[Image, Masks]]:
        return (self.frame(t) for t in range(self.length))

    def frame(self, t: int) -> tuple[Image, Masks]:
        """Frame ``t``: (H, W, 3) uint8 RGB and the visible part of each object, (K, H, W) bool."""
        if not 0 <= t < self.length:
            raise IndexError(f"frame {t} of a video of {self.length}")
        image, masks = self._background.copy(), np.zeros((len(self._cutouts), self.height, self.width), np.bool_)
        for k, cutout in enumerate(self._cutouts):
            h, w = cutout.mask.shape
            scale, (x, y) = cutout.scale[t], cutout.centre[t]
            matrix = np.array([[scale, 0, x - scale * w / 2], [0, scale, y - scale * h / 2]])
            size = (self.width, self.height)
            picture = cv2.warpAffine(
                cutout.image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            mask = cv2.warpAffine(cutout.mask.view(np.uint8), matrix, size, flags=cv2.INTER_NEAREST).view(np.bool_)
            image[mask] = picture[mask]
            masks[:k] &= ~mask
            masks[k] = mask
        return image, masks

    def _cut(self, rng: np.random.Generator, stills: VideoDataset, index: int) -> _Cutout | None:
        """An object of the still that is large and whole; None if there is none."""
        image, masks = stills.videos[index].frame(0)
        inner = masks[:, 1:-1, 1:-1].sum((1, 2))
        whole = np.flatnonzero((inner == masks.sum((1, 2))) & (inner >= _LEAST_AREA))
        if not whole.size:
            return None
        k = int(rng.choice(whole))
        rows, columns = np.flatnonzero(masks[k].any(1)), np.flatnonzero(masks[k].any(0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        mask = np.ascontiguousarray(masks[k][box])
        side = rng.uniform(0.3, 0.55) * min(self.height, self.width)  # of a square of the same area as its box
        drift = np.exp(np.linspace(0, float(rng.uniform(-0.3, 0.3)), self.length))
        scale = side / np.sqrt(mask.shape[0] * mask.shape[1]) * drift
        ends = rng.uniform(0.2, 0.8, (2, 2)) * (self.width, self.height)
        share = np.linspace(0, 1, self.length)[:, None]
        sway = np.sin(2 * np.pi * (share * rng.uniform(0.5, 1.5) + rng.random(2))) * 0.06 * self.height
        centre = ends[0] * (1 - share) + ends[1] * share + sway
        return _Cutout(stills.videos[index].names[k], np.ascontiguousarray(image[box]), mask, scale, centre)
