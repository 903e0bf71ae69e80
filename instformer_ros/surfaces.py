"""Where an instance is: the surface points that a depth image shows inside its mask, their centre and extent.

Depth inside a mask is never clean. Three things are kept out of the answer: pixels without a measurement; flying
pixels, which a sensor invents between the near and the far side of an edge; and whatever else the mask covers (the wall
behind a loose outline, a bar in front).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from instformer_ros import masks
from instformer_ros.structures import Rle

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

LEAST_POINTS = 10  # with fewer there is no saying where the instance is
_STEP = 0.03  # neighbours on one surface differ in depth by less than this share; f = 500 px allows 86 degrees of slant
_SUPPORT = 3  # of eight neighbours: a corner of an object has three, a pixel flying beside an edge has two at most
_QUANTILES = 201
_GAP = 0.05  # a jump by this share of the depth, with less than a quantile's share of points in it, parts two surfaces
_TRIM = 0.005  # share of the points beyond either end of the extent, for what got through


@dataclass(frozen=True)
class Depth:
    """Depth in the pixel grid of a picture, with the pinhole camera that both were taken by.

    The frame is the picture's optical frame (REP-103: x right, y down, z forward). Pixel (u, v) of depth z lies at
    ``((u - cx) z / fx, (v - cy) z / fy, z)``.
    """

    metres: Floats  # (H, W) along the optical axis; NaN where nothing was measured
    fx: float  # pixels
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True)
class Surface:
    """What is seen of one instance. The frame is the camera's optical one (REP-103) until :meth:`moved`."""

    points: Floats  # (N, 3) metres, N >= LEAST_POINTS
    pixels: NDArray[np.intp]  # (N, 2) row and column of each point
    coverage: float  # share of the mask's pixels whose depth was valid, 0-1

    @cached_property
    def centre(self) -> NDArray[np.float64]:
        """(3,) metres: the median of the points, axis by axis."""
        middle = len(self.points) // 2
        return self._ranked[:, [middle, -1 - middle]].mean(axis=1, dtype=np.float64)

    @cached_property
    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The corners, each (3,) metres, of the box along the frame's axes that holds all but a few points."""
        trimmed = int(_TRIM * len(self.points))
        low, high = self._ranked[:, [trimmed, -1 - trimmed]].T.astype(np.float64)
        return low, high

    @cached_property
    def _ranked(self) -> Floats:
        """(3, N): each axis in order. Sorting float32 is faster than selecting a few ranks."""
        return np.sort(np.ascontiguousarray(self.points.T), axis=1)

    def moved(self, rotation: NDArray[np.float64], translation: NDArray[np.float64]) -> Surface:
        """The same points in another frame: ``rotation`` (3, 3) is applied first, then ``translation`` (3,)."""
        points = self.points @ rotation.T.astype(np.float32) + translation.astype(np.float32)
        return Surface(points, self.pixels, self.coverage)


def visible_surface(mask: Rle, depth: Depth) -> Surface | None:
    """The surface of an instance.

    Args:
        mask: Its mask, of the depth image's size.
        depth: What was measured with the picture; not changed.

    Returns:
        Its surface, or None where too little of it was measured.

    Raises:
        ValueError: the mask has not the depth image's size.
    """
    if tuple(mask["size"]) != depth.metres.shape:
        raise ValueError(f"mask of {tuple(mask['size'])} on depth of {depth.metres.shape}")
    x, y, width, height = masks.box(mask)
    inside = masks.decode(mask)[y : y + height, x : x + width]
    patch = depth.metres[y : y + height, x : x + width]
    valid = inside & np.isfinite(patch)
    measured = int(valid.sum())
    if measured < LEAST_POINTS:
        return None
    coverage = measured / int(inside.sum())
    steady = valid & _supported(patch)
    rows, columns = np.nonzero(steady if steady.sum() >= LEAST_POINTS else valid)
    z = patch[rows, columns]
    near, far = _largest_layer(z)
    chosen = (z >= near) & (z <= far)
    if chosen.sum() < LEAST_POINTS:
        return None
    rows, columns, z = rows[chosen] + y, columns[chosen] + x, z[chosen]
    points = np.stack([(columns - depth.cx) * z / depth.fx, (rows - depth.cy) * z / depth.fy, z], axis=1)
    return Surface(points.astype(np.float32), np.stack([rows, columns], axis=1), coverage)


def _supported(depth: Floats) -> Bools:
    """(H, W): which pixels lie on one surface with enough of their neighbours."""
    height, width = depth.shape
    support = np.zeros((height, width), np.uint8)
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):  # each pair of neighbours once, counted for both
        upper = slice(0, height - down), slice(max(0, -right), width - max(0, right))
        lower = slice(down, height), slice(max(0, right), width - max(0, -right))
        close = np.abs(depth[upper] - depth[lower]) < _STEP * depth[upper]  # False beside NaN
        support[upper] += close
        support[lower] += close
    return support >= _SUPPORT


def _largest_layer(depth: Floats) -> tuple[float, float]:
    """The nearest and the farthest depth of the largest surface among values of several, each apart from the others.

    The depths in their order are flat along a surface and jump between two. Seen through quantiles, a few stray values
    within the gap do not close it.
    """
    places = np.linspace(0, len(depth) - 1, min(_QUANTILES, len(depth))).round().astype(np.intp)
    quantiles = np.sort(depth)[places]
    jumps = np.flatnonzero(np.diff(quantiles) > _GAP * quantiles[:-1])
    first = np.concatenate([[0], jumps + 1])
    last = np.concatenate([jumps, [len(quantiles) - 1]])
    largest = int(np.argmax(last - first))
    near, far = quantiles[first[largest]], quantiles[last[largest]]
    return float(near) / (1.0 + _GAP), float(far) * (1.0 + _GAP)  # a surface does not end at a quantile
