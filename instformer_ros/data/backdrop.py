"""The ToyVIS background: a muted, cluttered picture, and what a camera adds to it (light and sensor noise)."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
_NOISE_SIDE = 512  # sensor noise is cut from a fixed sheet of this size: drawing it afresh costs more than the frame


def _octaves(rng: np.random.Generator, height: int, width: int, coarsest: int, count: int, fall: float) -> Image:
    """Smooth noise over the whole range 0-255: ``count`` octaves, from cells of ``coarsest`` pixels down."""
    total = np.zeros((height, width), np.float32)
    weight, cell = 1.0, coarsest
    for _ in range(count):
        grid = rng.integers(0, 256, (height // cell + 3, width // cell + 3), dtype=np.uint8)
        layer = cv2.resize(grid, (grid.shape[1] * cell, grid.shape[0] * cell), interpolation=cv2.INTER_CUBIC)
        oy, ox = (int(i) for i in rng.integers(0, cell, 2))
        cv2.accumulateWeighted(layer[oy : oy + height, ox : ox + width], total, weight / (1.0 + weight))
        weight, cell = weight * fall, max(1, cell // 2)
    spread = np.empty((height, width), np.uint8)
    return cast(Image, cv2.normalize(total, spread, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U))


def _muted(rng: np.random.Generator, strongest: float) -> tuple[float, float, float]:
    """A random RGB colour (0-255) whose saturation is at most ``strongest``."""
    hue, saturation, value = rng.random(3)
    r, g, b = colorsys.hsv_to_rgb(hue, strongest * saturation, 0.12 + 0.8 * value)
    return 255.0 * r, 255.0 * g, 255.0 * b


def _palette(rng: np.random.Generator) -> Image:
    """A look-up table (256, 1, 3) through five muted colours that share their hue more or less."""
    hue, spread = rng.random(2)
    low, high = 0.1 + 0.35 * rng.random(), 0.55 + 0.4 * rng.random()
    values = rng.permutation(np.linspace(low, high, 5))
    stops = [
        colorsys.hsv_to_rgb((hue + 0.35 * spread * h) % 1.0, 0.06 + 0.34 * s, v)
        for h, s, v in zip(rng.random(5), rng.random(5), values, strict=True)
    ]
    line = np.asarray(stops, np.float32)[None] * 255.0
    return np.ascontiguousarray(cv2.resize(line, (256, 1), interpolation=cv2.INTER_LINEAR)[0][:, None].astype(np.uint8))


def _clutter(rng: np.random.Generator, image: Image, count: int) -> None:
    """Draws ``count`` duller things: stones (polygons), blobs, rods and bundles of lines. Sizes are in pixels."""
    height, width = image.shape[:2]
    sub = 8  # fixed point, so that edges are anti-aliased at sub-pixel places
    for kind, reach, x, y, turn in zip(
        rng.random(count), rng.random(count), rng.random(count), rng.random(count), rng.random(count), strict=True
    ):
        colour = _muted(rng, 0.42)
        cx, cy, size = x * width, y * height, 5.0 + 30.0 * reach * reach
        if kind < 0.4:
            corners = int(rng.integers(3, 8))
            angle = np.sort(rng.random(corners)) * 2.0 * np.pi
            radius = size * (0.5 + 0.7 * rng.random(corners))
            points = np.stack([cx + radius * np.cos(angle), cy + radius * np.sin(angle)], 1) * sub
            cv2.fillPoly(image, [points.astype(np.int32)], colour, cv2.LINE_AA, 3)
        elif kind < 0.65:
            axes = (int(size * sub), int(size * sub * (0.3 + 0.7 * rng.random())))
            thick = -1 if reach > 0.25 else 2
            cv2.ellipse(image, (int(cx * sub), int(cy * sub)), axes, 360 * turn, 0, 360, colour, thick, cv2.LINE_AA, 3)
        else:
            length, thick = size * 2.5, int(rng.integers(1, 5))
            way = np.array([np.cos(turn * 6.283), np.sin(turn * 6.283)])
            lines = 1 if kind < 0.88 else int(rng.integers(3, 7))
            for i in range(lines):
                a = np.array([cx, cy]) + way[::-1] * (-1.0, 1.0) * i * (thick + 3)
                ends = ((a - way * length) * sub).astype(int), ((a + way * length) * sub).astype(int)
                cv2.line(image, ends[0].tolist(), ends[1].tolist(), colour, thick, cv2.LINE_AA, 3)


def backdrop(rng: np.random.Generator, height: int, width: int) -> Image:
    """A random background, (height, width, 3) RGB: noise through a muted palette, clutter, uneven light."""
    coarse = int(rng.integers(24, 72))
    ground = _octaves(rng, height, width, coarse, int(rng.integers(3, 6)), 0.5 + 0.2 * rng.random())
    image = cast(Image, cv2.applyColorMap(ground, _palette(rng)))
    _clutter(rng, image, int(rng.integers(6, 19) * (height * width) / (192 * 256)) + 2)
    # Light and fine grain over ground and clutter alike, so that clutter is no flat paper cut-out.
    light = _octaves(rng, height, width, 48, 5, 0.75)
    strength = 0.3 + 0.4 * rng.random()
    gain = cv2.cvtColor(cv2.convertScaleAbs(light, alpha=strength, beta=128.0 - 127.0 * strength), cv2.COLOR_GRAY2RGB)
    return cast(Image, cv2.multiply(image, gain, scale=1.0 / 128.0))


@lru_cache(maxsize=8)
def _noise_sheet(sigma: int) -> NDArray[np.int16]:
    sheet = np.random.default_rng(sigma).normal(0.0, sigma, (_NOISE_SIDE, _NOISE_SIDE, 3))
    return np.rint(sheet).astype(np.int16)


def expose(image: Image, gain: float, sigma: int, where: tuple[int, int]) -> Image:
    """What the sensor makes of a picture: brightness times ``gain``, noise of ``sigma`` grey levels.

    ``where`` picks the noise; the same two numbers give the same noise.
    """
    height, width = image.shape[:2]
    if height > _NOISE_SIDE or width > _NOISE_SIDE:
        raise ValueError(f"a picture of {width}x{height} is larger than the noise sheet")
    y, x = where[0] % (_NOISE_SIDE - height + 1), where[1] % (_NOISE_SIDE - width + 1)
    noise = _noise_sheet(sigma)[y : y + height, x : x + width]
    bright = cv2.convertScaleAbs(image, alpha=gain)
    return cast(Image, cv2.add(bright, noise, dtype=cv2.CV_8U))
