"""What an overlay must show, and leave alone."""

from __future__ import annotations

import numpy as np
import pytest

from instformer_ros import draw, masks
from instformer_ros.structures import TrackedFrame, TrackedInstance, TrackState, Vocabulary


def instance(mask: np.ndarray, track_id: int, name: str = "mug") -> TrackedInstance:
    rle = masks.encode(mask)
    state = TrackState.TRACKED if mask.any() else TrackState.COASTING
    return TrackedInstance(track_id, state, 3, 0, track_id, 0, name, 0.87, 0.9, masks.box(rle), rle)


def frame(*instances: TrackedInstance, size: tuple[int, int] = (120, 160)) -> TrackedFrame:
    return TrackedFrame(*size, Vocabulary(1, ("mug",)), 0, list(instances))


def square(y: int, x: int, side: int, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[max(0, y) : y + side, max(0, x) : x + side] = True
    return mask


GREY = np.full((120, 160, 3), 128, np.uint8)


def test_colours_are_stable_and_neighbours_differ() -> None:
    assert draw.track_colour(7) == draw.track_colour(7)
    colours = np.array([draw.track_colour(i) for i in range(1, 200)], float)
    assert colours.min() >= 0
    assert colours.max() <= 255
    for step in (1, 2, 3, 4):
        assert np.linalg.norm(colours[step:] - colours[:-step], axis=1).min() > 60


def test_tint_is_a_blend_inside_and_nothing_changes_far_outside() -> None:
    before = GREY.copy()
    drawn = draw.overlay(GREY, frame(instance(square(60, 50, 40), 5)), opacity=0.25)
    assert np.array_equal(before, GREY)
    assert drawn.dtype == np.uint8
    expected = 0.75 * 128 + 0.25 * np.array(draw.track_colour(5))
    assert np.abs(drawn[80, 70] - expected).max() <= 1
    assert (drawn[110:, 120:] == 128).all()


def test_opacity_ends() -> None:
    mask = square(60, 50, 40)
    assert tuple(draw.overlay(GREY, frame(instance(mask, 5)), 1.0)[80, 70]) == draw.track_colour(5)
    assert tuple(draw.overlay(GREY, frame(instance(mask, 5)), 0.0)[80, 70]) == (128, 128, 128)


def test_small_masks_are_drawn_on_large_ones_whatever_the_order() -> None:
    large, small = instance(square(20, 20, 90), 1), instance(square(80, 70, 20), 2)
    a, b = draw.overlay(GREY, frame(large, small), 1.0), draw.overlay(GREY, frame(small, large), 1.0)
    assert tuple(a[90, 80]) == draw.track_colour(2)
    assert np.array_equal(a, b)


def test_coasting_instances_leave_no_trace() -> None:
    assert np.array_equal(draw.overlay(GREY, frame(instance(np.zeros((120, 160), bool), 3))), GREY)
    assert np.array_equal(draw.overlay(GREY, frame()), GREY)


@pytest.mark.parametrize(("y", "x"), [(-10, -10), (-10, 150), (110, -10), (110, 150), (50, 70)])
def test_the_whole_label_stays_inside_the_picture(y: int, x: int) -> None:
    """A plate with all its width is somewhere: at the border it would be cut if it were not moved."""
    mask = square(y, x, 20)
    drawn = draw.overlay(GREY, frame(instance(mask, 4)))
    changed = np.any(drawn != GREY, axis=-1)
    changed[max(0, y - 3) : y + 23, max(0, x - 3) : x + 23] = False
    assert np.ptp(np.flatnonzero(changed.any(0))) > 35


def test_labels_of_close_objects_do_not_cover_one_another() -> None:
    around = (40, 50, 20, 20)
    image, taken = GREY.copy(), []
    for k in range(4):
        draw._label(image, f"mug #{k} 0.50", around, draw.track_colour(k), taken)
    assert all(draw._overlap(a, b) == 0 for i, a in enumerate(taken) for b in taken[:i])


@pytest.mark.parametrize("background", [0, 128, 255])
@pytest.mark.parametrize("track_id", range(1, 8))
def test_text_stands_out_on_its_plate(background: int, track_id: int) -> None:
    image = np.full((200, 260, 3), background, np.uint8)
    taken: list[tuple[int, int, int, int]] = []
    draw._label(image, "mug #7 0.87", (60, 60, 40, 40), draw.track_colour(track_id), taken)
    x, y, w, h = taken[0]
    plate = image[y : y + h, x : x + w] @ np.array([0.299, 0.587, 0.114])
    assert np.abs(plate - np.median(plate)).max() > 80


def test_label_text() -> None:
    mug = instance(square(0, 0, 9), 7)
    assert draw.label_text(mug) == "mug #7 0.87"
    assert draw.label_text(instance(square(0, 0, 9), 7, "")) == "#7 0.87"
    assert len(draw.label_text(instance(square(0, 0, 9), 7, "x" * 200))) < 50


@pytest.mark.parametrize("name", ["tasse à café", "кружка", "杯子", "", "x" * 200, "two\nlines"])
def test_any_name_can_be_drawn(name: str) -> None:
    drawn = draw.overlay(GREY, frame(instance(square(40, 40, 40), 5, name)))
    assert drawn.shape == GREY.shape
    assert (drawn != GREY).any()


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (5, 5)])
def test_tiny_pictures(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 128, np.uint8)
    drawn = draw.overlay(image, frame(instance(np.ones(size, bool), 5), size=size))
    assert drawn.shape == image.shape


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="on an image of"):
        draw.overlay(GREY, frame(instance(square(2, 2, 9, (60, 80)), 5)))


def test_contact_sheet_shows_each_picture_in_its_place() -> None:
    images = [np.full((48, 64, 3), 40 * k, np.uint8) for k in range(5)]
    sheet = draw.contact_sheet(images, 3)
    assert sheet.shape == (2 * 52 + 4, 3 * 68 + 4, 3)
    for k, image in enumerate(images):
        y, x = 4 + (k // 3) * 52, 4 + (k % 3) * 68
        assert np.array_equal(sheet[y : y + 48, x : x + 64], image)
    captioned = draw.contact_sheet(images, 3, ["a", "", "c", "d", "frame 4"])
    assert captioned.shape[0] > sheet.shape[0]
    assert (captioned[53:60, 5:12] < 200).any()


def test_contact_sheet_fits_other_sizes_and_refuses_nonsense() -> None:
    sheet = draw.contact_sheet([np.zeros((40, 80, 3), np.uint8), np.zeros((80, 40, 3), np.uint8)], 2)
    second = sheet[4:44, 4 + 84 : 4 + 84 + 80, 0]
    assert np.flatnonzero(second[20] == 0).tolist() == list(range(30, 50))
    with pytest.raises(ValueError, match="contact sheet"):
        draw.contact_sheet([], 2)
    with pytest.raises(ValueError, match="caption"):
        draw.contact_sheet([GREY], 2, ["a", "b"])
