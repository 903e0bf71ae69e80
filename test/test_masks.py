"""Masks against pycocotools, and against plain numpy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from instformer_ros import masks
from instformer_ros.structures import InstformerError, Rle


def blobs(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random masks with runs of all lengths, an empty and a full one among them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    cy, cx, r = rng.random((3, count, 1, 1))
    made = np.hypot(y - cy * height, x - cx * width) < 0.5 * r * min(height, width)
    made ^= rng.random(made.shape) < 0.02
    made[0], made[1] = False, True
    return made


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 17), (17, 1), (48, 64), (33, 57)])
def test_encoding_equals_pycocotools_and_decodes_back(height: int, width: int) -> None:
    truth = blobs(6, height, width)
    rles = masks.encode_many(truth)
    for mask, rle in zip(truth, rles, strict=True):
        assert rle == coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert rle == masks.encode(mask)
        back = masks.decode(rle)
        assert back.dtype == np.bool_
        assert np.array_equal(back, mask)


def test_area_and_box_equal_those_counted_on_pixels() -> None:
    for mask in blobs(12, 40, 50, seed=3):
        rle = masks.encode(mask)
        assert masks.area(rle) == mask.sum()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        expected = (0, 0, 0, 0)
        if mask.any():
            expected = (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
        assert masks.box(rle) == expected
        assert all(type(v) is int for v in masks.box(rle))


def test_empty_masks_of_any_size() -> None:
    assert masks.empty(5, 7) == masks.encode(np.zeros((5, 7), bool))
    assert masks.encode_many(np.zeros((0, 5, 7), bool)) == []
    nothing = masks.encode(np.zeros((0, 7), bool))
    assert masks.decode(nothing).shape == (0, 7)
    assert masks.area(nothing) == 0
    assert masks.box(nothing) == (0, 0, 0, 0)


def test_a_view_or_a_transposed_array_is_encoded_as_it_looks() -> None:
    truth = blobs(4, 30, 40)
    assert masks.encode_many(truth.transpose(0, 2, 1)[:, ::2])[3]["size"] == [20, 30]
    assert np.array_equal(masks.decode(masks.encode(truth[3].T[::2])), truth[3].T[::2])


def test_counts_from_a_json_file_are_text() -> None:
    mask = blobs(4, 30, 40)[3]
    rle = masks.encode(mask)
    text = json.loads(json.dumps({"size": rle["size"], "counts": rle["counts"].decode()}))
    assert np.array_equal(masks.decode(text), mask)
    assert masks.area(text) == mask.sum()


def plain_sum(counts: bytes) -> int | None:
    """Of the runs, letter by letter as COCO's own text has it; None for what is none."""
    runs: list[int] = []
    number = place = 0
    for letter in (c - 48 for c in counts):
        if not 0 <= letter < 64 or place == 6:
            return None
        number |= (letter & 31) << 5 * place
        place += 1
        if letter < 32:
            number -= (1 << 5 * place) if letter & 16 else 0
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            if runs[-1] < 0:
                return None
            number = place = 0
    return None if place else sum(runs)


def test_many_masks_are_checked_as_one_by_one() -> None:
    """Good ones and damaged ones between each other: a letter changed, text, none at all, another size."""
    rng, damaged = np.random.default_rng(0), 0
    for _ in range(300):
        rles: list[Rle] = []
        for _ in range(rng.integers(0, 9)):
            height, width = (int(n) for n in rng.integers(1, 40, 2))
            counts = bytearray(masks.encode(rng.random((height, width)) < rng.choice([0, 0.02, 0.5, 1]))["counts"])
            if rng.random() < 0.1:
                counts[rng.integers(len(counts))] = rng.integers(40, 120)
            elif rng.random() < 0.05:
                height += 1
            rles.append(Rle(size=[height, width], counts=bytes(counts if rng.random() < 0.98 else b"")))
        right = [plain_sum(rle["counts"]) == math.prod(rle["size"]) for rle in rles]
        wanted = right.index(False) if False in right else None
        assert masks.first_damaged(rles) == wanted
        assert [masks.first_damaged([rle]) is None for rle in rles] == right
        damaged += wanted is not None
    assert 50 < damaged < 250


def test_damaged_counts_are_a_one_line_error() -> None:
    rle = masks.encode(blobs(4, 30, 40)[3])
    with pytest.raises(InstformerError, match=r"30x40.*damaged") as caught:
        masks.decode(Rle(size=[30, 40], counts=rle["counts"] * 2))
    assert "\n" not in str(caught.value)


def test_not_a_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="bool"):
        masks.encode_many(np.zeros((2, 5, 7), np.uint8))
    with pytest.raises(ValueError, match="N, H, W"):
        masks.encode_many(np.zeros((5, 7), bool))


def test_label_image_keeps_small_masks_on_large_ones() -> None:
    large, small = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    large[2:18, 2:28] = True
    small[5:8, 5:8] = True
    for order in ((0, 1), (1, 0)):
        rles = [masks.encode((large, small)[i]) for i in order]
        labels = masks.label_image(rles, [(7, 65535)[i] for i in order], 20, 30)
        assert labels.dtype == np.uint16
        assert np.array_equal(labels == 65535, small)
        assert np.array_equal(labels == 7, large & ~small)
    assert not masks.label_image([masks.empty(20, 30)], [3], 20, 30).any()
    assert masks.label_image([], [], 4, 5).shape == (4, 5)


@pytest.mark.parametrize("value", [0, -1, 65536])
def test_label_values_that_do_not_fit_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="label value"):
        masks.label_image([masks.empty(4, 5)], [value], 4, 5)
    with pytest.raises(ValueError, match="label image"):
        masks.label_image([masks.empty(5, 4)], [1], 4, 5)


@st.composite
def any_mask(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    runs = draw(st.lists(st.integers(0, 400), max_size=30))  # of alternating values, column by column
    flat = np.repeat(np.arange(len(runs)) % 2, runs)[: height * width].astype(bool)
    return np.pad(flat, (0, height * width - flat.size)).reshape(width, height).T


@given(any_mask())
@settings(max_examples=300, deadline=None)
def test_run_lengths_equal_pycocotools_byte_for_byte(mask: np.ndarray) -> None:
    rle, theirs = masks.encode(mask), coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert rle["counts"] == theirs["counts"] and list(rle["size"]) == list(theirs["size"])
    assert np.array_equal(masks.decode(rle), mask)
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat])))
    plain = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    for form in (rle, {**rle, "counts": rle["counts"].decode()}, {**rle, "counts": plain}):
        assert masks.parse(form, *mask.shape) == theirs


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"size": [4, 5], "counts": [3, 3]}, "do not add up"),
        ({"size": [5, 4], "counts": [20]}, "mask of 4x5 pixels in a video of 5x4"),
        ({"counts": "x"}, "not a run-length"),
        (7, "not a run-length"),
        ({"size": [4, 5], "counts": 3}, "not a run-length"),
    ],
)
def test_forms_that_are_no_mask_are_refused(form: object, message: str) -> None:
    with pytest.raises(InstformerError, match=message):
        masks.parse(form, 4, 5)
