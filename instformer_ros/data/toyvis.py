"""ToyVIS: a small open-vocabulary world made from a seed. Captioned scenes, labelled frames and videos.

Three kinds of picture share one look (:mod:`.sprites` on a :mod:`.backdrop`): :func:`scene` for the image-text
pre-training, :func:`labelled_frame` for stage 1, :class:`.toyvideo.ToyVideo` for tracking and evaluation. Class names
and splits come from :mod:`.toynames`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from instformer_ros.data.backdrop import backdrop, expose
from instformer_ros.data.composition import (
    HEIGHT,
    SMALLEST,
    WIDTH,
    Image,
    Masks,
    draw_names,
    random_diameter,
    random_pose,
    render,
)
from instformer_ros.data.sprites import Pose, random_look
from instformer_ros.data.toynames import ALL_NAMES, SPLITS, class_names, split_of
from instformer_ros.data.toyvideo import ToyVideo

__all__ = [
    "ALL_NAMES",
    "HEIGHT",
    "SPLITS",
    "WIDTH",
    "ToyVideo",
    "class_names",
    "labelled_frame",
    "scene",
    "split_of",
]

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
    rng: np.random.Generator, classes: Sequence[str], size: tuple[int, int] = (96, 96), largest: float = 90.0
) -> tuple[Image, str, tuple[str, ...]]:
    """A captioned scene for the image-text pre-training: a whole picture with its background, never a masked crop.

    Half the scenes hold one object of 24 px to ``largest``, the others two or three of 24-48 px.

    Args:
        rng: The source of all chance.
        classes: The names to draw from.
        size: Height and width in pixels.
        largest: Diameter of the largest single object, in pixels.

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
        diameter = random_diameter(rng, SMALLEST, largest if single else min(48.0, largest))
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
