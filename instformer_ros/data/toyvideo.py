"""ToyVIS videos with ground truth: planned at once, painted frame by frame, in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from instformer_ros.data.backdrop import backdrop, expose
from instformer_ros.data.composition import HEIGHT, WIDTH, Image, Masks, draw_names, render
from instformer_ros.data.sprites import INNER, Look, random_look
from instformer_ros.data.toynames import ALL_NAMES, split_of
from instformer_ros.data.toypaths import camera_shake, plan_paths
from instformer_ros.structures import InstformerError

FRAMES = 36
SHORTEST = 24
_MARGIN = 40  # pixels of background around the picture, for the camera to pan over
_WORLD = 0x70F  # keeps a video's chance apart from that of other users of the same seed


class ToyVideo:
    """One video of 3-6 objects, a pair of twins among them, and at least one full occlusion.

    Objects are listed from the furthest back to the front; the list of :attr:`names` and :attr:`track_ids` and the
    masks share that order. ``frame(t)`` depends on the seed and ``t`` alone.

    Args:
        seed: Any integer from 0 up; the same seed is the same video.
        classes: The names to draw from.
        length: Frames, at least 24.

    Raises:
        InstformerError: the seed is negative, the video too short, a name unknown, or every class a ring (a ring can
            cover nothing).
    """

    def __init__(self, seed: int, classes: Sequence[str] = ALL_NAMES, length: int = FRAMES) -> None:
        if seed < 0:
            raise InstformerError(f"ToyVIS seed {seed}: use an integer from 0 up")
        if length < SHORTEST:
            raise InstformerError(f"ToyVIS video of {length} frames: use at least {SHORTEST}")
        plan, self._picture = np.random.SeedSequence((_WORLD, seed)).spawn(2)
        rng = np.random.default_rng(plan)
        self.seed, self.length, self.height, self.width = seed, length, HEIGHT, WIDTH
        self._looks = _cast(rng, classes)
        self.names = tuple(look.name for look in self._looks)
        self.track_ids = tuple(range(1, len(self.names) + 1))
        shake = camera_shake(rng, length)
        self._paths, self.covered, self.covering = plan_paths(rng, self._looks, length, shake)
        self._view = _pan(rng, length) + shake
        self._gain = _light(rng, length)
        self._sigma = int(rng.integers(1, 6))
        self._noise = rng.integers(0, 512, (length, 2)).tolist()

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[Image, Masks]]:
        return (self.frame(t) for t in range(self.length))

    @cached_property
    def _backdrop(self) -> Image:
        return backdrop(np.random.default_rng(self._picture), HEIGHT + 2 * _MARGIN, WIDTH + 2 * _MARGIN)

    def frame(self, t: int) -> tuple[Image, Masks]:
        """Frame ``t`` and its truth.

        Returns:
            The image, (H, W, 3) uint8 RGB, and each object's visible part, (K, H, W) bool, all False where an object
            is covered or out of the picture.

        Raises:
            IndexError: ``t`` is not in 0..length - 1.
        """
        if not 0 <= t < self.length:
            raise IndexError(f"frame {t} of a video of {self.length}")
        # Moving the camera moves the picture the other way: hence the minus, which shake has for objects and ground.
        centre = (self._backdrop.shape[1] / 2 - self._view[t, 0], self._backdrop.shape[0] / 2 - self._view[t, 1])
        image = cast(Image, cv2.getRectSubPix(self._backdrop, (WIDTH, HEIGHT), centre))
        masks = render(image, self._looks, [path.pose(t) for path in self._paths])
        return expose(image, self._gain[t], self._sigma, self._noise[t]), masks


def _cast(rng: np.random.Generator, classes: Sequence[str]) -> list[Look]:
    """Draws the objects of a video; one after the first can cover others."""
    for name in classes:
        split_of(name)  # refuses what is no class
    solid = [name for name in classes if INNER[name.split()[-1]] > 0.0]
    if not solid:
        raise InstformerError("ToyVIS video: every class is a ring, which can cover nothing; add another shape")
    names = draw_names(rng, classes, int(rng.integers(3, 7)), twins=True)
    if not any(INNER[name.split()[-1]] > 0.0 for name in names[1:]):
        names.remove(next((name for name in names if names.count(name) == 1), names[0]))
        names.append(solid[int(rng.integers(len(solid)))])
    looks: dict[str, Look] = {}
    drawn = []
    for name in names:  # half of all twins look alike to the last shade
        look = looks[name] if name in looks and rng.random() < 0.5 else random_look(rng, name)
        looks[name] = look
        drawn.append(look)
    return drawn


def _pan(rng: np.random.Generator, length: int) -> NDArray[np.float64]:
    """A slow pan of the background, (T, 2) pixels, within the margin together with the shake."""
    ends = rng.uniform(-28.0, 28.0, (2, 2))
    share = np.linspace(0.0, 1.0, length)[:, None]
    way: NDArray[np.float64] = ends[0] * (1.0 - share) + ends[1] * share
    return way


def _light(rng: np.random.Generator, length: int) -> list[float]:
    """Brightness of each frame: a level and a slow change."""
    level, change, phase = rng.random(3)
    time = np.arange(length)
    gain = (0.86 + 0.22 * level) * (1.0 + 0.08 * change * np.sin(2.0 * np.pi * (time / 40.0 + phase)))
    return [float(g) for g in gain]
