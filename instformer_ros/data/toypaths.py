"""How the objects and the camera of a ToyVIS video move. Planned as arrays over time, before anything is painted.

Every plan holds a full occlusion: one object rests behind a larger one for some frames and comes out again. Paths are
drawn until circles around and within the shapes prove it, so the promise holds for the painted masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from instformer_ros.data.composition import HEIGHT, LARGEST, SMALLEST, WIDTH, random_diameter
from instformer_ros.data.sprites import INNER, OUTER, Look, Pose

Track = NDArray[np.float64]  # one number for each frame

_TRIES = 200  # one in three or so is accepted
_SCALE_DRIFT = 0.12
_SAFETY = 1.5  # pixels: covers the rounding of anti-aliased edges


@dataclass(frozen=True)
class Path:
    """One object's way through the video; arrays of length T, units as in :class:`.sprites.Pose`."""

    x: Track
    y: Track
    diameter: Track
    angle: Track
    hue_shift: Track

    def pose(self, t: int) -> Pose:
        """Where the object is in frame ``t``."""
        return Pose(*(float(a[t]) for a in (self.x, self.y, self.diameter, self.angle, self.hue_shift)))


def _wave(rng: np.random.Generator, time: Track, amplitude: float, shortest: float, longest: float) -> Track:
    """A slow oscillation of random amplitude (up to ``amplitude``), period (frames) and phase."""
    size, period, phase = rng.random(3)
    wave: Track = amplitude * size * np.sin(2.0 * math.pi * (time / (shortest + (longest - shortest) * period) + phase))
    return wave


def camera_shake(rng: np.random.Generator, length: int) -> NDArray[np.float64]:
    """Trembling of a hand-held camera, (T, 2) pixels: smooth, and a few pixels at most."""
    time = np.arange(length, dtype=np.float64)
    strength = 0.5 + 2.0 * rng.random()
    return np.stack([_wave(rng, time, strength, 5, 12) + _wave(rng, time, strength, 12, 30) for _ in range(2)], 1)


def _spin(rng: np.random.Generator, time: Track, x: Track, y: Track, diameter: float) -> Path:
    """Adds drift of scale, rotation and hue to a way through the picture."""
    turn, speed = rng.random(2)
    scale = np.exp(_wave(rng, time, _SCALE_DRIFT, 25, 70))
    return Path(
        x=x,
        y=y,
        diameter=np.clip(diameter * scale, SMALLEST, LARGEST),
        angle=2.0 * math.pi * turn + 0.16 * (speed - 0.5) * time,
        hue_shift=_wave(rng, time, 6.0, 25, 70),
    )


def _wander(rng: np.random.Generator, time: Track, drift: float, inset: float) -> tuple[Track, Track]:
    """A way that is inside the picture, ``inset`` pixels from its border, at some moment of the middle of the video."""
    length = len(time)
    moment = length * (0.3 + 0.4 * rng.random())
    heading, pace = 2.0 * math.pi * rng.random(), drift * rng.random() / length
    x = rng.uniform(inset, WIDTH - inset) + pace * math.cos(heading) * (time - moment) + _wave(rng, time, 16, 18, 50)
    y = rng.uniform(inset, HEIGHT - inset) + pace * math.sin(heading) * (time - moment) + _wave(rng, time, 16, 18, 50)
    return x, y


def _excursion(rng: np.random.Generator, time: Track, diameter: float) -> tuple[Track, Track]:
    """A way that leaves the picture altogether, through its nearest side or another, and comes back."""
    inset = 0.35 * diameter
    x, y = _wander(rng, time, 30.0, inset)
    away = 10 + int(rng.integers(0, 9))
    start = int(rng.integers(3, max(4, len(time) - away - 4)))
    bump = np.clip(1.5 * np.sin(np.clip((time - start) / away, 0.0, 1.0) * math.pi) ** 2, 0.0, 1.0)
    side = int(rng.integers(4))
    beyond = 0.65 * diameter + 6.0
    if side == 0:
        x = x + bump * np.minimum(-beyond - x, 0.0)
    elif side == 1:
        x = x + bump * np.maximum(WIDTH + beyond - x, 0.0)
    elif side == 2:
        y = y + bump * np.minimum(-beyond - y, 0.0)
    else:
        y = y + bump * np.maximum(HEIGHT + beyond - y, 0.0)
    return x, y


def _pass_behind(rng: np.random.Generator, time: Track, front: Path, reach: float) -> tuple[Track, Track]:
    """A way that comes to the front object's centre, rests there for some frames and leaves in another direction."""
    length = len(time)
    centre = length * (0.35 + 0.3 * rng.random())
    rest, pace = 2.5 * rng.random(), 4.0 + 6.0 * rng.random()
    far = reach + 15.0 + 45.0 * rng.random()
    gap = np.maximum(np.abs(time - centre) - rest, 0.0)
    distance = far * np.tanh(pace * (np.sqrt(gap * gap + 1.0) - 1.0) / far)
    arrive = 2.0 * math.pi * rng.random()
    leave = arrive + math.pi + rng.uniform(-1.2, 1.2)
    heading = np.where(time < centre, arrive, leave)
    return front.x + distance * np.cos(heading), front.y + distance * np.sin(heading)


def _radius(look: Look, path: Path, table: dict[str, float]) -> Track:
    radius: Track = 0.5 * table[look.shape] * path.diameter
    return radius


def _occlusion_holds(looks: Sequence[Look], paths: Sequence[Path], behind: int, front: int, shake: Track) -> bool:
    """Is ``behind`` wholly covered by ``front`` for two frames in a row, and in clear sight before and after?"""
    hidden_one, cover = paths[behind], paths[front]
    size = _radius(looks[behind], hidden_one, OUTER)
    distance = np.hypot(hidden_one.x - cover.x, hidden_one.y - cover.y)
    hidden = distance + size + _SAFETY < _radius(looks[front], cover, INNER)
    pairs = np.flatnonzero(hidden[1:] & hidden[:-1])
    if not len(pairs):
        return False
    x, y = hidden_one.x + shake[:, 0], hidden_one.y + shake[:, 1]
    inside = (x > 0) & (x < WIDTH) & (y > 0) & (y < HEIGHT)
    clear = inside.copy()
    for look, path in zip(looks[behind + 1 :], paths[behind + 1 :], strict=True):
        clear &= np.hypot(hidden_one.x - path.x, hidden_one.y - path.y) > _radius(look, path, OUTER) + 2.0
    return bool(inside[pairs].all() and clear[: pairs[0]].any() and clear[pairs[-1] + 2 :].any())


def _front_and_behind(rng: np.random.Generator, looks: Sequence[Look]) -> tuple[int, int]:
    """Picks who covers whom; the first in the list is furthest back."""
    able = [k for k, look in enumerate(looks) if k > 0 and INNER[look.shape] > 0.0]
    front = able[int(rng.integers(len(able)))]
    twins = [k for k in range(front) if looks[k].name == looks[front].name]
    if twins and rng.random() < 0.5:
        return front, twins[0]
    return front, int(rng.integers(front))


def _attempt(
    rng: np.random.Generator, looks: Sequence[Look], time: Track, excursion: bool
) -> tuple[list[Path], int, int] | None:
    front, behind = _front_and_behind(rng, looks)
    large = float(rng.uniform(64.0, LARGEST))
    room = INNER[looks[front].shape] * large * (1.0 - _SCALE_DRIFT) - 4.0 * _SAFETY
    largest = room / (OUTER[looks[behind].shape] * (1.0 + _SCALE_DRIFT))
    if largest < SMALLEST:
        return None
    paths: list[Path | None] = [None] * len(looks)
    cover = _spin(rng, time, *_wander(rng, time, 40.0, 0.6 * large), large)
    small = random_diameter(rng, SMALLEST, min(largest, 64.0))
    way = _pass_behind(rng, time, cover, 0.5 * (OUTER[looks[front].shape] * large + OUTER[looks[behind].shape] * small))
    paths[front], paths[behind] = cover, _spin(rng, time, *way, small)
    for k in rng.permutation(len(looks)):
        if paths[k] is None:
            diameter = random_diameter(rng)
            if excursion:
                paths[k] = _spin(rng, time, *_excursion(rng, time, diameter), diameter)
                excursion = False
            else:
                paths[k] = _spin(rng, time, *_wander(rng, time, 110.0, 0.3 * diameter), diameter)
    return [path for path in paths if path is not None], behind, front


def plan_paths(
    rng: np.random.Generator, looks: Sequence[Look], length: int, shake: NDArray[np.float64]
) -> tuple[list[Path], int, int]:
    """Plans all objects' ways, a full occlusion among them; every other video has an exit with a re-entry.

    Args:
        rng: The source of all chance.
        looks: The objects, at least three, the first furthest back; one after the first is no ring.
        length: Frames T.
        shake: (T, 2) camera shake, already known so that the occlusion is checked with it.

    Returns:
        One path for each object, shake included, and the indices of the covered and of the covering object.
    """
    time = np.arange(length, dtype=np.float64)
    excursion = rng.random() < 0.5
    for _ in range(_TRIES):
        attempt = _attempt(rng, looks, time, excursion)
        if attempt is not None and _occlusion_holds(looks, *attempt, shake):
            paths, behind, front = attempt
            return [_shaken(path, shake) for path in paths], behind, front
    raise RuntimeError(f"no full occlusion found for {[look.name for look in looks]} in {_TRIES} plans")


def _shaken(path: Path, shake: NDArray[np.float64]) -> Path:
    return Path(path.x + shake[:, 0], path.y + shake[:, 1], path.diameter, path.angle, path.hue_shift)
