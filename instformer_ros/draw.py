"""Pictures for people: tracked instances over a frame, and contact sheets."""

from __future__ import annotations

import colorsys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ImageFont

from instformer_ros import masks
from instformer_ros.structures import TrackedFrame, TrackedInstance

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]  # x, y, width, height

_GOLDEN = 0.61803398875  # successive multiples leave the widest gaps on the circle of hues
_TONES = ((0.78, 1.0), (0.55, 1.0), (0.88, 0.82))  # saturation and value, in turn


def track_colour(track_id: int) -> Colour:
    """The colour of a track, RGB 0-255: the same for ever, and far from those of its neighbours."""
    saturation, value = _TONES[track_id % len(_TONES)]
    r, g, b = colorsys.hsv_to_rgb((0.02 + track_id * _GOLDEN) % 1.0, saturation, value)
    return round(255 * r), round(255 * g), round(255 * b)


def label_text(instance: TrackedInstance) -> str:
    """What is written at an instance, such as "mug #7 0.87"; a class-agnostic one has no name."""
    name = instance.class_name if len(instance.class_name) <= 32 else instance.class_name[:30] + "..."
    return f"{name} #{instance.track_id} {instance.score:.2f}".strip()


def overlay(image: Image, frame: TrackedFrame, opacity: float = 0.3) -> Image:
    """Draws the instances of ``frame`` over its image.

    Masks are tinted in their track's colour and outlined, larger ones first; labels go on top of everything, inside
    the picture and, where there is room, not on one another. Coasting instances, which have no mask, are left out.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        frame: Instances with masks of the same size.
        opacity: Share of the tint inside a mask, 0-1.

    Returns:
        A new image, (H, W, 3) uint8 RGB.

    Raises:
        ValueError: a mask has not the image's size.
    """
    drawn = np.array(image, dtype=np.uint8, order="C")
    visible = [(masks.area(instance.rle), instance) for instance in frame.instances]
    visible = sorted((item for item in visible if item[0]), key=lambda item: -item[0])
    for _, instance in visible:
        _tint(drawn, instance, opacity)
    taken: list[Rectangle] = []
    for _, instance in reversed(visible):  # small ones choose their place first: they have fewer
        _label(drawn, label_text(instance), masks.box(instance.rle), track_colour(instance.track_id), taken)
    return drawn


def _tint(image: Image, instance: TrackedInstance, opacity: float) -> None:
    if tuple(instance.rle["size"]) != image.shape[:2]:
        raise ValueError(f"mask of {tuple(instance.rle['size'])} on an image of {image.shape[:2]}")
    x, y, width, height = masks.box(instance.rle)
    inside = masks.decode(instance.rle)[y : y + height, x : x + width]
    colour = track_colour(instance.track_id)
    patch = image[y : y + height, x : x + width]
    table = np.arange(256, dtype=np.float32)[:, None] * (1.0 - opacity) + np.asarray(colour, np.float32) * opacity
    tinted = cv2.LUT(np.ascontiguousarray(patch), (table + 0.5).astype(np.uint8)[None])
    cv2.copyTo(tinted, inside.view(np.uint8), patch)
    outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    thin = max(1, round(image.shape[0] / 400))
    dark = tuple(int(0.25 * c) for c in colour)
    cv2.drawContours(image, outlines, -1, dark, thin + 2, cv2.LINE_AA, offset=(x, y))
    cv2.drawContours(image, outlines, -1, colour, thin, cv2.LINE_AA, offset=(x, y))


@lru_cache(maxsize=32)
def _font(size: int, ascii_only: bool) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, the same on every machine; for other letters than it has, the machine's DejaVu if there."""
    if not ascii_only:
        with suppress(OSError):
            return ImageFont.truetype("DejaVuSans.ttf", size)
    return ImageFont.load_default(size)


def _writable(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Pillow's own font knows ASCII alone: accents fall off there, and letters of other scripts become "?"."""
    if text.isascii() or "DejaVu" in str(font.getname()[0] if isinstance(font, ImageFont.FreeTypeFont) else ""):
        return text
    bare = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if c.isascii() else "?" for c in bare)


@lru_cache(maxsize=512)
def _text(text: str, size: int) -> NDArray[np.float32]:
    """Coverage of one line of text, 0-1, (line height, width); the same height for any text of that size."""
    font = _font(size, text.isascii())
    text = _writable(text, font).replace(" ", "  ")  # its spaces are so narrow that "#1 0.84" would read "#10.84"
    top, bottom = font.getbbox("Ág")[1], font.getbbox("Ág")[3]
    ink = font.getmask(text, mode="L")
    columns, rows = ink.size
    glyphs = np.array(ink, dtype=np.float32).reshape(rows, columns) / 255.0
    above = max(0, int(font.getbbox(text)[1] - top))
    line = np.zeros((max(int(bottom - top), above + rows), columns), np.float32)
    line[above : above + rows] = glyphs
    return line


def _write(image: Image, text: NDArray[np.float32], x: int, y: int, colour: Colour) -> None:
    """Blends text into the image, cut at its border."""
    patch = image[y : y + text.shape[0], x : x + text.shape[1]]
    cover = text[: patch.shape[0], : patch.shape[1], None]
    patch[...] = patch + cover * (np.asarray(colour, np.float32) - patch) + 0.5


def _places(around: Rectangle, width: int, height: int, image: Image) -> Iterator[Rectangle]:
    """Where a label may go, best first, moved into the picture: above the box, below, further off, beside it, on it."""
    x, y, w, h = around
    tops = [y - height - 2, y + h + 2, y - 2 * height - 4, y + h + height + 4, y + 1, y + h // 2 - height // 2]
    lefts = [x, x + w - width, x + w + 2, x - width - 2]
    for left, top in [*((left, top) for top in tops[:4] for left in lefts[:2]), *((a, b) for a in lefts for b in tops)]:
        limit_x, limit_y = max(0, image.shape[1] - width), max(0, image.shape[0] - height)
        yield min(max(left, 0), limit_x), min(max(top, 0), limit_y), width, height


def _overlap(a: Rectangle, b: Rectangle) -> int:
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0, across) * max(0, down)


def _label(image: Image, text: str, around: Rectangle, colour: Colour, taken: list[Rectangle]) -> None:
    """Writes on a plate of the track's colour, in black or white, whichever stands out."""
    size = max(10, round(image.shape[0] / 42))
    ink = _text(text, size)
    pad = max(2, size // 5)
    width, height = min(ink.shape[1] + 2 * pad, image.shape[1]), min(ink.shape[0] + 2 * pad, image.shape[0])
    # The first free place; if there is none, the one that covers least (min keeps the first of equals).
    place = min(_places(around, width, height, image), key=lambda p: sum(_overlap(p, other) for other in taken))
    taken.append(place)
    x, y, _, _ = place
    plate = image[y : y + height, x : x + width]
    plate[...] = plate * 0.12 + np.asarray(colour, np.float32) * 0.88
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 120
    _write(image[y : y + height, x : x + width], ink, pad, pad, (0, 0, 0) if bright else (255, 255, 255))


def contact_sheet(images: Sequence[Image], columns: int, captions: Sequence[str] | None = None) -> Image:
    """Lays pictures out in rows on a white sheet, each with its caption below.

    Args:
        images: At least one, (H, W, 3) uint8 RGB; all are fitted into the first one's size.
        columns: Pictures in a row, at least 1.
        captions: One line for each picture, or None.

    Raises:
        ValueError: there is no image, fewer than one column, or not one caption for each image.
    """
    if not images or columns < 1 or (captions is not None and len(captions) != len(images)):
        raise ValueError("a contact sheet needs an image, a column, and a caption for each image or none")
    height, width = images[0].shape[:2]
    columns = min(columns, len(images))
    gap, size = max(4, width // 48), max(11, min(18, width // 20))
    foot = 0 if captions is None else size + gap
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + foot + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        y, x = gap + row * (height + foot + gap), gap + column * (width + gap)
        sheet[y : y + height, x : x + width] = _fit(image, height, width)
        if captions is not None and captions[i]:
            _write(
                sheet[: y + height + foot, : x + width], _text(captions[i], size), x, y + height + gap // 2, (40,) * 3
            )
    return sheet


def _fit(image: Image, height: int, width: int) -> Image:
    """Scales a picture to fit, aspect kept, centred on light grey."""
    if image.shape[:2] == (height, width):
        return image
    scale = min(height / image.shape[0], width / image.shape[1])
    h, w = max(1, int(image.shape[0] * scale)), max(1, int(image.shape[1] * scale))
    fitted = np.full((height, width, 3), 230, np.uint8)
    y, x = (height - h) // 2, (width - w) // 2
    fitted[y : y + h, x : x + w] = cv2.resize(
        image, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    return fitted
