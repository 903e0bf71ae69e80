"""One ToyVIS object: the look of a class, and how it is painted, anti-aliased, at any place, size and angle.

Shapes are signed distances on the rotated pixel grid, so a sprite is drawn directly at its sub-pixel pose: nothing is
resampled, and a frame depends on its time alone.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instformer_ros.data.toynames import COLOURS, split_of

Floats = NDArray[np.floating[Any]]  # float32 in fact

# Radii as a share of half the diameter: OUTER holds the whole shape, INNER lies wholly within it (0: it has a hole).
OUTER = {"circle": 1.0, "square": 1.18, "triangle": 1.12, "star": 1.12, "ring": 1.0, "cross": 1.08}
INNER = {"circle": 0.99, "square": 0.82, "triangle": 0.55, "star": 0.52, "ring": 0.0, "cross": 0.51}

_SQUARE = 0.83  # half a side
_TRIANGLE = 0.56  # radius of the inscribed circle
_STAR_TIP, _STAR_NOTCH = 1.12, 0.53  # radii of the outer and the inner corners
_RING_HOLE = 0.52
_CROSS_ARM, _CROSS_END = 0.37, 1.0  # half a width, half a length


@dataclass(frozen=True)
class Look:
    """How one object of a class looks, before any drift."""

    name: str
    shape: str
    texture: str
    hue: float  # degrees
    saturation: float  # 0-1
    value: float  # 0-1
    second: float  # second tone: below 0 darker, above 0 lighter than the first
    period: float  # of stripes or dots, in pixels, at a diameter of 48
    slant: float  # of stripes or dots against the shape, radians
    light: tuple[float, float]  # shading: change of brightness from one rim to the other, along x and y


@dataclass(frozen=True)
class Pose:
    """Where an object is in a picture: pixels, radians, and degrees of hue added to its look."""

    x: float
    y: float
    diameter: float
    angle: float
    hue_shift: float = 0.0


def random_look(rng: np.random.Generator, name: str) -> Look:
    """Draws a look of class ``name``: hue within 8 degrees of the colour's own.

    Raises:
        InstformerError: the name is not one of ToyVIS.
    """
    split_of(name)
    colour, texture, shape = name.split()
    draw: list[float] = rng.random(8).tolist()  # plain floats keep float32 arrays float32
    # A lighter yellow on yellow or a darker blue on blue cannot be seen, so these have one choice.
    lighter = {"yellow": False, "cyan": False, "blue": True}.get(colour, draw[0] < 0.5)
    shade, turn = 0.16 * draw[5], 2.0 * math.pi * draw[6]
    return Look(
        name=name,
        shape=shape,
        texture=texture,
        hue=60.0 * COLOURS.index(colour) + 16.0 * (draw[1] - 0.5),
        saturation=0.72 + 0.28 * draw[2],
        value=0.74 + 0.26 * draw[3],
        second=1.0 if lighter else -1.0,
        period=7.0 + 2.0 * draw[4],
        slant=math.pi * draw[7],
        light=(shade * math.cos(turn), shade * math.sin(turn)),
    )


def _distance(shape: str, u: Floats, v: Floats, radius: float) -> Floats:
    """Signed distance to the outline in pixels, negative within; exact near the edges, rough at the corners."""
    if shape == "circle":
        return np.sqrt(u * u + v * v) - radius
    if shape == "ring":
        middle, half = 0.5 * (1.0 + _RING_HOLE) * radius, 0.5 * (1.0 - _RING_HOLE) * radius
        return np.abs(np.sqrt(u * u + v * v) - middle) - half
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - _SQUARE * radius
    if shape == "triangle":
        return np.maximum(0.8660254 * np.abs(u) - 0.5 * v, v) - _TRIANGLE * radius
    if shape == "cross":
        a, b, arm, end = np.abs(u), np.abs(v), _CROSS_ARM * radius, _CROSS_END * radius
        return np.maximum(np.minimum(a, b) - arm, np.maximum(a, b) - end)
    return _star_distance(u, v, radius)


def _star_distance(u: Floats, v: Floats, radius: float) -> Floats:
    """Folds the plane into one tenth of the star, where the outline is one straight line."""
    cos36, sin36 = 0.80901699, 0.58778525
    p, q = np.abs(u), -v
    for nx, ny in ((cos36, -sin36), (-cos36, -sin36)):  # mirrors, after I. Quilez, "2D distance functions"
        fold = 2.0 * np.maximum(nx * p + ny * q, 0.0)
        p, q = p - fold * nx, q - fold * ny
    p = np.abs(p)
    tip_y, notch_x, notch_y = _STAR_TIP * radius, _STAR_NOTCH * radius * sin36, _STAR_NOTCH * radius * cos36
    ex, ey = notch_x, notch_y - tip_y  # along the edge, from tip to notch
    return (p * -ey + (q - tip_y) * ex) / math.hypot(ex, ey)


def _second_tone(look: Look, u: Floats, v: Floats, diameter: float) -> Floats:
    """Share of the second tone in each pixel, 0-1, anti-aliased."""
    period = look.period * (diameter / 48.0) ** 0.4  # grows with the object, but more slowly: 24 px keep three stripes
    cos, sin = math.cos(look.slant), math.sin(look.slant)
    a = (cos * u + sin * v) / period
    if look.texture == "striped":
        wave = np.abs(a - np.floor(a) - 0.5)  # 0-0.5
        share: Floats = np.clip((wave - 0.26) * (2.0 * period) * 0.5 + 0.5, 0.0, 1.0)
        return share
    b = (cos * v - sin * u) / period
    a, b = a - np.floor(a) - 0.5, b - np.floor(b) - 0.5
    share = np.clip((0.33 - np.sqrt(a * a + b * b)) * period + 0.5, 0.0, 1.0)
    return share


def _tones(look: Look, pose: Pose) -> tuple[Floats, Floats]:
    """First and second tone, RGB, 0-255."""
    hue = ((look.hue + pose.hue_shift) / 360.0) % 1.0
    first = colorsys.hsv_to_rgb(hue, look.saturation, look.value)
    if look.second > 0.0:
        second = colorsys.hsv_to_rgb(hue, 0.18 * look.saturation, 0.5 + 0.5 * look.value)
    else:
        second = colorsys.hsv_to_rgb(hue, look.saturation, 0.28 * look.value)
    return 255.0 * np.asarray(first, np.float32), 255.0 * np.asarray(second, np.float32)


def paint(image: NDArray[np.uint8], look: Look, pose: Pose) -> tuple[slice, slice, NDArray[np.bool_]] | None:
    """Paints one object into ``image`` ((H, W, 3) RGB, changed in place).

    Returns:
        Rows, columns and the mask (more than half covered pixels) of the touched rectangle; None if out of the picture.
    """
    height, width = image.shape[:2]
    radius = 0.5 * pose.diameter
    reach = OUTER[look.shape] * radius + 1.0
    x0, x1 = max(0, int(pose.x - reach)), min(width, int(pose.x + reach) + 1)
    y0, y1 = max(0, int(pose.y - reach)), min(height, int(pose.y + reach) + 1)
    if x0 >= x1 or y0 >= y1 or pose.x + reach < 0 or pose.y + reach < 0:
        return None
    dx = np.arange(x0, x1, dtype=np.float32) + np.float32(0.5 - pose.x)
    dy = (np.arange(y0, y1, dtype=np.float32) + np.float32(0.5 - pose.y))[:, None]
    cos, sin = np.float32(math.cos(pose.angle)), np.float32(math.sin(pose.angle))
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    cover = np.clip(0.5 - _distance(look.shape, u, v, radius), 0.0, 1.0)

    first, second = _tones(look, pose)
    shade = 1.0 + (look.light[0] * dx + look.light[1] * dy) * np.float32(1.0 / radius)
    if look.texture == "plain":
        colour = shade[..., None] * first
    else:
        colour = first + _second_tone(look, u, v, pose.diameter)[..., None] * (second - first)
        colour *= shade[..., None]
    np.minimum(colour, 255.0, out=colour)
    patch = image[y0:y1, x0:x1]
    colour -= patch
    colour *= cover[..., None]
    colour += patch
    patch[...] = colour + 0.5
    return slice(y0, y1), slice(x0, x1), cover > 0.5
