"""ToyVIS: a small open-vocabulary world made from a seed. Captioned scenes, labelled frames and videos.

Three kinds of picture share one look (:mod:`.sprites` on a :mod:`.backdrop`): :func:`scene` for the image-text
pre-training, :func:`labelled_frame` for stage 1, :class:`.toyvideo.ToyVideo` for tracking and evaluation. Class names and splits come from :mod:`.toynames`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from instformer_ros.data.backdrop import backdrop, expose
from instformer_ros.data.sprites import Look, Pose, paint, random_look
from instformer_ros.data.toynames import ALL_NAMES, SPLITS, class_names, split_of

__all__ = ["ALL_NAMES", "HEIGHT", "SPLITS", "WIDTH", "class_names", "labelled_frame", "render", "scene", "split_of"]

HEIGHT, WIDTH = 192, 256
SMALLEST, LARGEST = 24.0, 96.0  # diameters in pixels

Image = NDArray[np.uint8]
Masks = NDArray[np.bool_]

_SENTENCES = (
    "a photo of {}.",
    "This is a photo of {}",
    "There is {} in the scene",
    "a photo of {} in the scene",
    "There is {} in the scene.",
    "a picture of {}",
    "an image with {}.",
    "we see {} here",
    "{}",
)
_SENTENCES_SIZED = (
    "a photo of a {size} {name}.",
    "This is a photo of a {size} {name}.",
    "There is a {size} {name} in the scene.",
)


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
    return smallest * (largest / smallest) ** float(rng.random())


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


def _caption(rng: np.random.Generator, names: Sequence[str], diameter: float) -> str:
    if len(names) == 1 and rng.random() < 0.3:
        size = "small" if diameter < 38 else "medium" if diameter < 60 else "large"
        return _SENTENCES_SIZED[int(rng.integers(len(_SENTENCES_SIZED)))].format(size=size, name=names[0])
    phrases = [f"a {name}" for name in names]
    listed = phrases[0] if len(names) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return _SENTENCES[int(rng.integers(len(_SENTENCES)))].format(listed)


def _expose_random(rng: np.random.Generator, image: Image) -> Image:
    gain, sigma = float(rng.uniform(0.82, 1.12)), int(rng.integers(1, 6))
    return expose(image, gain, sigma, (int(rng.integers(512)), int(rng.integers(512))))


def scene(
    rng: np.random.Generator, classes: Sequence[str], size: tuple[int, int] = (96, 96)
) -> tuple[Image, str, tuple[str, ...]]:
    """A captioned scene for the image-text pre-training: a whole picture with its background, never a masked crop.

    Half the scenes hold one object of 24-90 px, the others two or three of 24-48 px.

    Args:
        rng: The source of all chance.
        classes: The names to draw from.
        size: Height and width in pixels.

    Returns:
        The image ((H, W, 3) uint8 RGB), its caption, and the names of its objects in the caption's order.
    """
    height, width = size
    image = backdrop(rng, height, width)
    single = rng.random() < 0.5
    count = 1 if single else int(rng.integers(2, 4))
    names = draw_names(rng, classes, count, twins=False)
    poses: list[Pose] = []
    for _ in names:
        diameter = random_diameter(rng, SMALLEST, 90.0 if single else 48.0)
        pose = random_pose(rng, diameter, height, width, 0.45)
        for _ in range(12):  # look for a free place; a crowded scene stays as it is
            if all(math.hypot(pose.x - p.x, pose.y - p.y) > 0.45 * (diameter + p.diameter) for p in poses):
                break
            pose = random_pose(rng, diameter, height, width, 0.45)
        poses.append(pose)
    render(image, [random_look(rng, name) for name in names], poses)
    return _expose_random(rng, image), _caption(rng, names, poses[0].diameter), tuple(names)


def labelled_frame(
    rng: np.random.Generator, pool: Sequence[str] = SPLITS["base"], unlabelled: Sequence[str] = ()
) -> tuple[Image, Masks, tuple[str, ...]]:
    """A single frame with the look of a video's, for stage 1.

    Args:
        rng: The source of all chance.
        pool: Names of the three to six labelled objects; base by default.
        unlabelled: Names of one or two more objects that are painted but not labelled.

    Returns:
        The image ((192, 256, 3) uint8 RGB), the visible parts of the labelled objects that can be seen
        ((K, 192, 256) bool, at least 12 pixels each), and their names (K).
    """
    image = backdrop(rng, HEIGHT, WIDTH)
    names = draw_names(rng, pool, int(rng.integers(3, 7)), twins=bool(rng.random() < 0.7))
    extra = draw_names(rng, unlabelled, int(rng.integers(1, 3)), twins=False) if unlabelled else []
    order = rng.permutation(len(names) + len(extra))
    looks = [random_look(rng, (names + extra)[i]) for i in order]
    poses = [random_pose(rng, random_diameter(rng), HEIGHT, WIDTH, 0.25) for _ in order]
    masks = render(image, looks, poses)
    keep = [k for k, i in enumerate(order) if i < len(names) and masks[k].sum() >= 12]
    return _expose_random(rng, image), masks[keep], tuple(looks[k].name for k in keep)
