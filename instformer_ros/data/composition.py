"""What every ToyVIS picture is composed of: which objects, how large, where, and who covers whom."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from instformer_ros.data.sprites import Look, Pose, paint

HEIGHT, WIDTH = 192, 256  # of videos and labelled frames
SMALLEST, LARGEST = 24.0, 96.0  # diameters in pixels

Image = NDArray[np.uint8]
Masks = NDArray[np.bool_]


def render(image: Image, looks: Sequence[Look], poses: Sequence[Pose]) -> Masks:
    """Paints objects into ``image`` (in place), the first one furthest back.

    Returns:
        The visible part of each object, (K, H, W) bool.
    """
    masks = np.zeros((len(looks), *image.shape[:2]), np.bool_)
    for k, (look, pose) in enumerate(zip(looks, poses, strict=True)):
        touched = paint(image, look, pose)
        if touched is not None:
            rows, columns, mask = touched
            masks[:k, rows, columns] &= ~mask
            masks[k, rows, columns] = mask
    return masks


def random_diameter(rng: np.random.Generator, smallest: float = SMALLEST, largest: float = LARGEST) -> float:
    """Log-uniform: small objects as frequent as large ones, octave by octave."""
    return float(smallest * (largest / smallest) ** rng.random())


def random_pose(rng: np.random.Generator, diameter: float, height: int, width: int, inset: float) -> Pose:
    """A pose whose centre keeps ``inset`` diameters from the border (the middle, where that leaves no room)."""
    x, y, turn = rng.random(3)
    room_x, room_y = max(0.0, width - 2.0 * inset * diameter), max(0.0, height - 2.0 * inset * diameter)
    return Pose(
        x=0.5 * width + (x - 0.5) * room_x,
        y=0.5 * height + (y - 0.5) * room_y,
        diameter=diameter,
        angle=2.0 * math.pi * turn,
        hue_shift=float(rng.uniform(-6.0, 6.0)),
    )


def draw_names(rng: np.random.Generator, pool: Sequence[str], count: int, twins: bool) -> list[str]:
    """``count`` names from ``pool`` in random order: different ones as far as it reaches, but for one pair of twins."""
    kinds = count - 1 if twins else count
    picks = rng.permutation(len(pool))[:kinds] if kinds <= len(pool) else rng.integers(0, len(pool), kinds)
    names = [pool[int(i)] for i in picks]
    if twins:
        names.insert(int(rng.integers(0, count)), names[0])
    return names
