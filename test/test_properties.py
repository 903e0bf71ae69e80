"""What holds for any input at all: an answer that fits, or a refusal in one line. Hypothesis looks for the exception.

``benchmarks/fuzz.py`` tries the same doors with a hundred thousand cases; a few of each are tried here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from instformer_ros import masks
from instformer_ros.model.vocabulary import MAX_LENGTH, MAX_WORDS, validate_names
from instformer_ros.pixels import ENCODINGS, decompress, to_rgb
from instformer_ros.settings import Settings
from instformer_ros.structures import InstformerError

ROOT = Path(__file__).resolve().parents[1]
settings.register_profile("steady", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("steady")

uint32 = st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1))


def refused(error: InstformerError) -> None:
    text = str(error)
    assert text.isprintable() and 10 < len(text) < 600 and text.encode()


@given(st.one_of(st.sampled_from(ENCODINGS), st.text()), uint32, uint32, uint32, st.integers(0, 255), st.binary())
@example("bayer_rggb8", 1, 1, 1, 0, b"x")
@example("nv12", 2, 2, 2, 0, b"123456")
def test_any_image(encoding: str, height: int, width: int, step: int, is_bigendian: int, data: bytes) -> None:
    try:
        picture = to_rgb(encoding, height, width, step, is_bigendian, data)
    except InstformerError as error:
        refused(error)
    else:
        assert picture.shape == (height, width, 3) and picture.dtype == np.uint8 and picture.flags.c_contiguous


@given(st.sampled_from(ENCODINGS), st.integers(1, 12), st.integers(1, 12), st.integers(0, 9))
def test_every_image_that_is_right_is_taken(encoding: str, height: int, width: int, padding: int) -> None:
    height, width = 2 * height, 2 * width
    step = 8 * width + padding
    picture = to_rgb(encoding, height, width, step, 0, bytes(height * step * 3 // 2))
    assert picture.shape == (height, width, 3)


@given(st.text(), st.binary(), st.integers(0, 400), st.integers(0, 255))
def test_any_compressed_image(format: str, junk: bytes, at: int, value: int) -> None:
    good = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    good[at % len(good)] = value
    for data in (junk, bytes(good)):
        try:
            picture = decompress(format, data)
        except InstformerError as error:
            refused(error)
        else:
            assert picture.ndim == 3 and picture.dtype == np.uint8 and picture.flags.c_contiguous


@given(st.lists(st.one_of(st.text(), st.text("aAß \n\ud800", max_size=5), st.none(), st.binary()), max_size=20))
@example(["x" * (MAX_LENGTH + 1)])
@example([str(n) for n in range(MAX_WORDS + 1)])
def test_any_vocabulary(words: list[Any]) -> None:
    try:
        names = validate_names(words)
    except InstformerError as error:
        refused(error)
    else:
        assert validate_names(names) == names and len({name.casefold() for name in names}) == len(names)
        assert all(0 < len(name) <= MAX_LENGTH and name.encode() for name in names)


@given(st.dictionaries(st.sampled_from(list(vars(Settings()))), st.one_of(st.integers(), st.floats(), st.text())))
def test_any_settings(values: dict[str, Any]) -> None:
    defaults = vars(Settings())
    fitting = {name: value for name, value in values.items() if isinstance(value, type(defaults[name]))}
    try:
        Settings(**fitting)
    except InstformerError as error:
        refused(error)


@given(st.integers(0, 9), st.integers(0, 9), st.one_of(st.binary(), st.text(), st.text("0123456PQRSTUVWXYZ`abo")))
@example(20, 20, b"o")  # the last letter promises another one
@example(20, 20, b"\xff")
@example(2, 2, b"0000000")
def test_any_run_lengths(height: int, width: int, counts: bytes | str) -> None:
    """pycocotools itself ends the process over some of these."""
    rle: Any = {"size": [height, width], "counts": counts}
    try:
        mask = masks.decode(rle)
    except InstformerError as error:
        refused(error)
    else:
        assert mask.shape == (height, width) and masks.area(rle) == mask.sum()


_numbers = st.one_of(st.integers(), st.floats(), st.integers(-9, 99))
_forms = st.one_of(
    st.lists(st.lists(_numbers, max_size=8), max_size=3),
    st.fixed_dictionaries({"size": st.just([9, 7]), "counts": st.one_of(st.lists(_numbers, max_size=5), st.binary())}),
    st.none() | st.text() | _numbers,
)


@given(_forms)
@example([[0, 0, 1e9, 0, 1e9, 1e9]])
def test_any_segmentation_of_an_annotation_file(segmentation: Any) -> None:
    try:
        mask = masks.decode(masks.parse(segmentation, 9, 7))
    except InstformerError as error:
        refused(error)
    else:
        assert mask.shape == (9, 7)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 999), st.floats(0, 1))
def test_every_mask_comes_back(height: int, width: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    np.testing.assert_array_equal(masks.decode(masks.encode(mask)), mask)


def test_masks_that_ask_for_too_much_memory_are_refused() -> None:
    for size in ([2**20, 2**20], [-1, 5], [2**14, 2**13]):
        with pytest.raises(InstformerError, match="too large or negative"):
            masks.decode({"size": size, "counts": b"0"})


@given(st.text())
def test_an_error_is_one_line_whatever_it_quotes(text: str) -> None:
    line = str(InstformerError(f"file '{text}': is no good"))
    assert line.isprintable() and line.encode()
    if text.isprintable():
        assert text in line


@pytest.mark.parametrize(("what", "count"), [("messages", 1000), ("files", 100)])
def test_fuzz(what: str, count: int) -> None:
    pytest.importorskip("rosbags", reason="rosbags is not installed: pip install 'instformer_ros[bags]'")
    command = [sys.executable, ROOT / "benchmarks" / "fuzz.py", what, "--count", str(count), "--seed", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["faults"] == []
    assert all(sum(outcomes.values()) >= count // 6 for outcomes in report["outcomes"].values())
