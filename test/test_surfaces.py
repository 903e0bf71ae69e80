"""3D centres and extents against geometry, with clean and with spoilt depth, and on real depth where it is at hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import rgbd_scene
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from instformer_ros import masks
from instformer_ros.surfaces import LEAST_POINTS, Depth, visible_surface

_FRAMES = (folder / "shared" / "data" / "rgbd_slambook2" for folder in Path(__file__).resolve().parents)
_REAL = next((folder for folder in _FRAMES if folder.is_dir()), None)
_ROOM = rgbd_scene.room()
_NAMES = [thing.name for thing in _ROOM.things]


def _depth(metres: NDArray[np.float64]) -> Depth:
    return Depth(metres.astype(np.float32), rgbd_scene.FX, rgbd_scene.FY, rgbd_scene.CX, rgbd_scene.CY)


@cache
def _spoilt(seed: int) -> Depth:
    return _depth(rgbd_scene.spoil(_ROOM.depth, seed))


def _grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    kernel = np.ones((2 * abs(by) + 1,) * 2, np.uint8)
    return (cv2.dilate if by > 0 else cv2.erode)(mask.view(np.uint8), kernel).astype(bool)


@pytest.mark.parametrize("name", _NAMES)
def test_clean_depth_gives_the_centre_and_the_extent(name: str) -> None:
    thing = _ROOM.things[_NAMES.index(name)]
    surface = visible_surface(masks.encode(thing.mask), _depth(_ROOM.depth))
    assert surface is not None and surface.coverage == 1.0
    np.testing.assert_allclose(surface.centre, thing.centre, atol=0.003)
    low, high = surface.bounds
    np.testing.assert_allclose(high - low, thing.size, atol=0.013)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("margin", [-3, 0, 4])
@pytest.mark.parametrize("name", _NAMES)
def test_spoilt_depth_and_a_loose_mask_keep_the_centre(name: str, margin: int, seed: int) -> None:
    """Within 2 cm or 2 % of the distance, with noise, flying pixels, holes and masks too small or too large."""
    thing = _ROOM.things[_NAMES.index(name)]
    surface = visible_surface(masks.encode(_grown(thing.mask, margin)), _spoilt(seed))
    assert surface is not None and 0.7 < surface.coverage < 0.9
    error = np.linalg.norm(surface.centre - thing.centre)
    assert error < min(0.02, 0.02 * thing.centre[2]), f"{error * 100:.1f} cm"
    _, high = surface.bounds
    assert high[2] < thing.centre[2] + thing.size[2] + 0.05, "the wall is taken for a part of it"


def test_bars_in_front_do_not_move_the_centre() -> None:
    thing = _ROOM.things[0]
    depth = _ROOM.depth.copy()
    top, bottom = np.flatnonzero(thing.mask.any(axis=1))[[0, -1]]
    for row in (top + 15, bottom - 15):
        depth[row - 7 : row + 8] = 0.7
    surface = visible_surface(masks.encode(thing.mask), _depth(depth))
    assert surface is not None
    np.testing.assert_allclose(surface.centre, thing.centre, atol=0.01)


def test_flying_pixels_do_not_join_an_object_to_what_is_close_behind() -> None:
    """A board 12 cm before a wall: the pixels between would make one surface of them."""
    depth = np.full((120, 160), 1.12)
    board = np.zeros(depth.shape, bool)
    board[30:90, 40:120] = True
    depth[board] = 1.0
    surface = visible_surface(masks.encode(_grown(board, 4)), _depth(cv2.blur(depth, (3, 3))))
    assert surface is not None
    low, high = surface.bounds
    np.testing.assert_allclose([low[2], high[2]], 1.0, atol=0.001)
    np.testing.assert_allclose(surface.pixels.mean(axis=0), [59.5, 79.5], atol=0.1)


def test_points_belong_to_their_pixels() -> None:
    thing = _ROOM.things[1]
    surface = visible_surface(masks.encode(thing.mask), _depth(_ROOM.depth))
    assert surface is not None
    rows, columns = surface.pixels.T
    x, y, z = surface.points.T
    assert thing.mask[rows, columns].all()
    np.testing.assert_allclose(z, _ROOM.depth[rows, columns], rtol=1e-6)
    np.testing.assert_allclose(columns, rgbd_scene.FX * x / z + rgbd_scene.CX, atol=1e-3)
    np.testing.assert_allclose(rows, rgbd_scene.FY * y / z + rgbd_scene.CY, atol=1e-3)


def test_what_was_not_measured_is_nowhere() -> None:
    thing = _ROOM.things[2]
    depth = np.full_like(_ROOM.depth, np.nan)
    assert visible_surface(masks.encode(thing.mask), _depth(depth)) is None
    rows, columns = np.nonzero(thing.mask)
    depth[rows[: LEAST_POINTS - 1], columns[: LEAST_POINTS - 1]] = 1.0
    assert visible_surface(masks.encode(thing.mask), _depth(depth)) is None
    assert visible_surface(masks.empty(*depth.shape), _depth(_ROOM.depth)) is None


def test_a_mask_of_another_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="240"):
        visible_surface(masks.empty(240, 320), _depth(_ROOM.depth))


def test_another_frame() -> None:
    """From the optical frame to one with z up, one metre above the ground."""
    thing = _ROOM.things[0]
    surface = visible_surface(masks.encode(thing.mask), _depth(_ROOM.depth))
    assert surface is not None
    rotation = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    moved = surface.moved(rotation, np.array([0.0, 0.0, 1.0]))
    x, y, z = thing.centre
    np.testing.assert_allclose(moved.centre, [z, -x, 1.0 - y], atol=0.003)
    low, high = moved.bounds
    np.testing.assert_allclose(high - low, thing.size[[2, 0, 1]], atol=0.012)


@pytest.mark.skipif(_REAL is None, reason="needs shared/data/rgbd_slambook2 beside or above the repository")
def test_a_real_chair_stands_still_while_the_camera_moves() -> None:
    """Loose outlines of one chair in three real frames, taken 0.9 m apart, agree on its place in the room."""
    assert _REAL is not None
    poses = np.loadtxt(_REAL / "pose.txt")  # x y z, quaternion x y z w: camera to room
    outlines = {3: (322, 122, 98, 118), 4: (270, 122, 125, 135), 5: (292, 100, 148, 165)}  # x, y, width, height
    places = []
    for number, (x, y, width, height) in outlines.items():
        millimetres = cv2.imread(str(_REAL / "depth" / f"{number}.pgm"), cv2.IMREAD_UNCHANGED)
        metres = np.where(millimetres > 0, millimetres / 1000.0, np.nan).astype(np.float32)
        outline = np.zeros(metres.shape, bool)
        outline[y : y + height, x : x + width] = True
        surface = visible_surface(masks.encode(outline), Depth(metres, 518.0, 519.0, 325.5, 253.5))
        assert surface is not None
        pose = poses[number - 1]
        places.append(surface.moved(Rotation.from_quat(pose[3:]).as_matrix(), pose[:3]).centre)
    spread = np.ptp(places, axis=0)
    assert np.linalg.norm(spread) < 0.08, f"it moved by {spread} m"
