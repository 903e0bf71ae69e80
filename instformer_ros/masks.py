"""Masks and their run-length form, boxes, and the label image. ``pycocotools`` does the coding.

Run-length encodings are COCO's compressed ones (column-major), see :class:`.structures.Rle`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from instformer_ros.pixels import LARGEST_SIDE, MOST_PIXELS
from instformer_ros.structures import InstformerError, Rle

LARGEST_LABEL = 65535  # of a uint16 label image; 0 is background


def encode(mask: NDArray[np.bool_]) -> Rle:
    """Encodes one mask, (H, W) bool."""
    return encode_many(np.asarray(mask)[None])[0]


def encode_many(masks: NDArray[np.bool_]) -> list[Rle]:
    """Encodes N masks, (N, H, W) bool; an empty list for N = 0.

    Raises:
        ValueError: the array has not three dimensions, or holds something else than bools.
    """
    masks = np.asarray(masks)
    if masks.ndim != 3 or masks.dtype != np.bool_:
        raise ValueError(f"masks must be bool (N, H, W), not {masks.dtype} {masks.shape}")
    # Columns become contiguous, mask by mask: run lengths go down them.
    return encode_columns(np.ascontiguousarray(masks.transpose(0, 2, 1)))


def encode_columns(columns: NDArray[np.bool_]) -> list[Rle]:
    """As :func:`encode_many`, for transposed masks, contiguous (N, W, H) bool, without copying them."""
    if not columns.size:
        return [empty(columns.shape[2], columns.shape[1]) for _ in columns]
    return cast("list[Rle]", coco.encode(columns.view(np.uint8).T))  # (H, W, N) in Fortran order, as pycocotools wants


def empty(height: int, width: int) -> Rle:
    """A mask of ``height`` x ``width`` with no pixel set."""
    if height * width == 0:
        return Rle(size=[height, width], counts=b"")
    return cast(Rle, coco.encode(np.zeros((height, width), np.uint8, order="F")))


def decode(rle: Rle) -> NDArray[np.bool_]:
    """The mask, (H, W) bool. Counts may also be text, as they are in a json file.

    Raises:
        InstformerError: the counts do not fit the size.
    """
    check(rle)
    height, width = rle["size"]
    if height * width == 0:
        return np.zeros((height, width), np.bool_)
    return cast("NDArray[np.bool_]", coco.decode(rle).view(np.bool_))


def check(rle: Rle) -> None:
    """Lets only run lengths pass that add up to their mask. pycocotools, in C, reads and writes past the end of others.

    Raises:
        InstformerError: the counts do not fit the size.
    """
    height, width = rle["size"]
    if not _is_possible(height, width):
        raise InstformerError(f"mask of {height}x{width}: too large or negative; write the file anew")
    if first_damaged([rle]) is not None:
        raise InstformerError(f"mask of {height}x{width}: its run lengths are damaged; write the file anew")


def first_damaged(rles: Sequence[Rle]) -> int | None:
    """The first of some masks that :func:`check` would not let pass, or None. One by one that takes ten times as long.

    Each run is a number of five bits a letter, the lowest first, with a sixth bit (32) in all letters but its last and
    its sign in bit 16 of that. From the fourth on, it is the difference to the run before the last.
    """
    texts = [_bytes(rle["counts"]) for rle in rles]
    count = len(texts)
    sizes = np.array([rle["size"] for rle in rles], dtype=object).reshape(count, 2)
    bad = np.array([not _is_possible(*size) for size in sizes], dtype=bool)
    letters = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - 48
    stops = np.cumsum([len(text) for text in texts], dtype=np.int64)
    full = np.flatnonzero(np.diff(stops, prepend=0))  # an empty text has no run at all
    # What is no number at all, a letter or a whole one, would shift everything behind it: then each by itself.
    ends = np.flatnonzero(letters < 32)
    lengths = np.diff(ends, prepend=-1)
    if letters.size and (
        letters.min() < 0 or letters.max() > 63 or (letters[stops[full] - 1] >= 32).any() or lengths.max() > 6
    ):  # 2^30, in six letters, is more than a mask can have
        return 0 if count == 1 else next(i for i, rle in enumerate(rles) if first_damaged([rle]) is not None)
    sums = np.zeros(count, np.int64)
    if letters.size:
        starts = ends - lengths + 1
        shifts = 5 * (np.arange(letters.size) - np.repeat(starts, lengths))
        runs = np.add.reduceat((letters & 31) << shifts, starts)
        runs -= np.where(letters[ends] & 16, np.int64(1) << 5 * lengths, 0)
        first = np.searchsorted(ends, stops[full] - np.diff(stops, prepend=0)[full])  # run of each mask
        runs_of = np.diff(first, append=runs.size)
        owner, place = np.repeat(full, runs_of), np.arange(runs.size) - np.repeat(first, runs_of)
        for parity in (1, 0):  # of one mask: its second, fourth ... run, and its third, fifth ...
            chain = np.flatnonzero((place % 2 == parity) & (place > 0))
            total, head = np.cumsum(runs[chain]), place[chain] == 2 - parity
            before = (total - runs[chain])[head]
            runs[chain] = total - before[np.cumsum(head) - 1]
        bad[owner[runs < 0]] = True
        np.add.at(sums, owner, runs)
    areas = np.array([0 if wrong else int(h) * int(w) for wrong, (h, w) in zip(bad, sizes, strict=True)], np.int64)
    found = np.flatnonzero(bad | (sums != areas))
    return int(found[0]) if found.size else None


def _is_possible(height: int, width: int) -> bool:
    return 0 <= height <= LARGEST_SIDE and 0 <= width <= LARGEST_SIDE and height * width <= MOST_PIXELS


def _bytes(counts: Any) -> bytes:
    """Text, as in a json file, too."""
    return counts.encode() if isinstance(counts, str) else counts


def parse(segmentation: Any, height: int, width: int) -> Rle:
    """Any form that a mask has in the benchmarks' files, as compressed run lengths that :func:`check` let pass.

    Args and errors: as for :func:`parse_unchecked`.
    """
    rle = parse_unchecked(segmentation, height, width)
    check(rle)
    return rle


def parse_unchecked(segmentation: Any, height: int, width: int) -> Rle:
    """Any form that a mask has in the benchmarks' files, as compressed run lengths: to be checked, many at once.

    Args:
        segmentation: compressed run lengths (``counts`` text or bytes), plain ones (a list), or a list of polygons.
        height: of the picture that it belongs to, and so of the mask.
        width: likewise.

    Raises:
        InstformerError: it is none of these, or of another size.
    """
    try:
        if isinstance(segmentation, list):  # polygons
            if not all(abs(value) <= LARGEST_SIDE for polygon in segmentation for value in polygon):
                raise InstformerError("a polygon far outside of any picture")
            rle = coco.merge(coco.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            rle = coco.frPyObjects(dict(segmentation), *segmentation["size"])
            if sum(segmentation["counts"]) != math.prod(segmentation["size"]):
                raise InstformerError("run lengths that do not add up to the mask's size")
        else:
            rle = segmentation
        size, counts = [int(n) for n in rle["size"]], rle["counts"]
        counts = counts.encode("ascii") if isinstance(counts, str) else counts
        if not isinstance(counts, bytes):
            raise InstformerError(f"not a run-length encoded mask (counts are {type(counts).__name__})")
    except InstformerError:
        raise
    except Exception as error:  # pycocotools raises bare ones
        raise InstformerError(f"not a run-length encoded mask ({error})") from error
    if size != [height, width]:
        raise InstformerError(f"mask of {size[1]}x{size[0]} pixels in a video of {width}x{height}")
    return Rle(size=size, counts=counts)


def area(rle: Rle) -> int:
    """Pixels set."""
    return int(coco.area(rle)) if rle["counts"] else 0


def box(rle: Rle) -> tuple[int, int, int, int]:
    """The tight box around the mask: x, y, width, height in pixels; zeros for an empty mask."""
    if not area(rle):
        return 0, 0, 0, 0
    x, y, width, height = (int(v) for v in coco.toBbox(rle))
    return x, y, width, height


def label_image(rles: Sequence[Rle], values: Sequence[int], height: int, width: int) -> NDArray[np.uint16]:
    """One picture of all masks, (H, W) uint16: each pixel holds the value of its mask, 0 where there is none.

    Larger masks are painted first, so a small one stays visible on a large one; of equal ones the later wins.

    Raises:
        ValueError: a value is not in 1..65535, the lists differ in length, or a mask has another size.
    """
    labels = np.zeros((height, width), np.uint16)
    areas = [area(rle) for rle in rles]
    for _, rle, value in sorted(zip(areas, rles, values, strict=True), key=lambda item: -item[0]):
        if not 1 <= value <= LARGEST_LABEL:
            raise ValueError(f"label value {value}: not in 1..{LARGEST_LABEL}")
        if tuple(rle["size"]) != (height, width):
            raise ValueError(f"mask of {tuple(rle['size'])} in a label image of {(height, width)}")
        x, y, w, h = box(rle)
        if w:
            labels[y : y + h, x : x + w][decode(rle)[y : y + h, x : x + w]] = value
    return labels
