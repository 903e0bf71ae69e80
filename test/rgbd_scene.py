"""A ray-cast room with a depth camera: centres are known from geometry, and the depth can be spoilt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 480, 640
FX, FY, CX, CY = 520.0, 525.0, 322.5, 238.0
_WALL = 3.0  # metres
_TURN = np.radians(55.0)

_COLUMNS, _ROWS = np.meshgrid(np.arange(WIDTH, dtype=np.float64), np.arange(HEIGHT, dtype=np.float64))
_RAYS = np.stack([(_COLUMNS - CX) / FX, (_ROWS - CY) / FY, np.ones_like(_COLUMNS)], axis=-1)  # (H, W, 3), z = 1


@dataclass(frozen=True)
class Thing:
    """One object with the truth about it."""

    name: str
    mask: NDArray[np.bool_]  # (H, W)
    centre: NDArray[np.float64]  # (3,) median of the visible surface, metres, optical frame
    size: NDArray[np.float64]  # (3,) extent of the visible surface


@dataclass(frozen=True)
class Room:
    depth: NDArray[np.float64]  # (H, W) metres, without any error
    things: list[Thing]


@cache
def room() -> Room:
    """A frontal card, a card turned away, and a ball, before a wall."""
    card = _card(np.array([0.35, -0.2, 1.2]), 0.0, (0.30, 0.20))
    turned = _card(np.array([-0.45, -0.25, 1.5]), _TURN, (0.40, 0.30))
    ball, radius = np.array([0.02, 0.15, 1.0]), 0.09
    half_chord = -_RAYS @ ball
    length = (_RAYS**2).sum(axis=-1)
    root = half_chord**2 - length * (ball @ ball - radius**2)
    hit = np.where(root >= 0, (-half_chord - np.sqrt(np.maximum(root, 0.0))) / length, np.inf)
    layers = np.stack([card, turned, hit, np.full((HEIGHT, WIDTH), _WALL)])
    nearest = layers.argmin(axis=0)
    # The far end of the turned card is lower in the picture: the height goes with 1 / z, which is linear from column to
    # column, so that this depth has half of the pixels on either side.
    along = np.array([np.cos(_TURN), 0.0, np.sin(_TURN)])
    near, far = (1.5 + sign * 0.20 * along[2] for sign in (-1, 1))
    depth_of_half = np.sqrt(2.0 / (near**-2 + far**-2))
    half = np.array([-0.45, -0.25, 1.5]) + along * (depth_of_half - 1.5) / along[2]
    # Half of a disc's area lies within 1 / sqrt(2) of its radius: so far from the ball's middle ray is the median.
    distance = np.linalg.norm(ball)
    rim = np.arcsin(radius / distance)
    ray = np.arctan(np.tan(rim) / np.sqrt(2.0))
    reach = distance * np.cos(ray) - np.sqrt(radius**2 - (distance * np.sin(ray)) ** 2)
    across = 2 * radius * np.cos(rim)
    truths = [
        ("card", np.array([0.35, -0.2, 1.2]), np.array([0.30, 0.20, 0.0])),
        ("turned card", half, np.array([0.40 * along[0], 0.30, 0.40 * along[2]])),
        ("ball", ball * reach * np.cos(ray) / distance, np.array([across, across, radius * (1 - radius / distance)])),
    ]
    things = [Thing(name, nearest == index, centre, size) for index, (name, centre, size) in enumerate(truths)]
    return Room(layers.min(axis=0), things)


def spoil(depth: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """What a sensor makes of it: noise that grows with distance, flying pixels along edges, a fifth of holes (NaN)."""
    rng = np.random.default_rng(seed)
    blurred = cv2.blur(depth, (3, 3))  # an edge becomes a bridge of two pixels
    edges = cv2.dilate(depth, np.ones((3, 3))) - cv2.erode(depth, np.ones((3, 3))) > 0.1
    measured = np.where(edges, blurred, depth)
    measured = measured + rng.normal(size=depth.shape) * (0.0012 + 0.0019 * (depth - 0.4) ** 2)
    blocks = cv2.resize(rng.random((HEIGHT // 8, WIDTH // 8)), (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
    measured[blocks < 0.2] = np.nan
    return measured


def _card(centre: NDArray[np.float64], turn: float, size: tuple[float, float]) -> NDArray[np.float64]:
    """Depth of a rectangle turned about the vertical, infinite beside it."""
    along = np.array([np.cos(turn), 0.0, np.sin(turn)])
    normal = np.array([-np.sin(turn), 0.0, np.cos(turn)])
    depth = (normal @ centre) / (_RAYS @ normal)
    place = _RAYS * depth[..., None] - centre
    inside = (np.abs(place @ along) <= size[0] / 2) & (np.abs(place[..., 1]) <= size[1] / 2) & (depth > 0)
    return np.where(inside, depth, np.inf)
