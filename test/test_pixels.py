"""Bytes of images: every encoding against a picture known beforehand, every kind of bad one against its refusal."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, replace

import cv2
import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from instformer_ros import pixels
from instformer_ros.pixels import decompress
from instformer_ros.structures import InstformerError

_COLOUR = (200, 90, 30)


@dataclass(frozen=True)
class Fields:
    """Those of a sensor_msgs/Image; its ``data`` is one of the kinds that may hold the bytes."""

    encoding: str
    height: int
    width: int
    step: int
    is_bigendian: int
    data: bytes

    def to_rgb(self) -> NDArray[np.uint8]:
        return pixels.to_rgb(self.encoding, self.height, self.width, self.step, self.is_bigendian, self.data)


def _message(rows: NDArray[np.generic], width: int, height: int, encoding: str, padding: int = 0) -> Fields:
    data = rows.reshape(rows.shape[0], -1).view(np.uint8)
    padded = np.pad(data, ((0, 0), (0, padding)), constant_values=77)
    return Fields(encoding, height, width, padded.shape[1], 0, padded.tobytes())


def _noise(height: int = 6, width: int = 8) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ["rgb", "bgr", "rgba", "bgra"])
def test_colour_orders(order: str, bits: int, padding: int) -> None:
    image = _noise()
    channels = [image[..., "rgb".index(c)] for c in order if c != "a"]
    if "a" in order:
        channels.append(np.full(image.shape[:2], 9, np.uint8))
    rows = np.stack(channels, axis=-1)
    if bits == 16:
        rows = (rows.astype("<u2") << 8) | 0x5A  # the lower byte is thrown away
    message = _message(rows, 8, 6, f"{order}{bits}", padding)
    result = message.to_rgb()
    np.testing.assert_array_equal(result, image)
    assert result.dtype == np.uint8 and result.flags.c_contiguous


def test_mono() -> None:
    grey = _noise()[..., 0]
    np.testing.assert_array_equal(_message(grey, 8, 6, "mono8").to_rgb(), np.stack([grey] * 3, -1))
    deep = _message(grey.astype("<u2") << 8, 8, 6, "mono16", padding=4)
    np.testing.assert_array_equal(deep.to_rgb(), np.stack([grey] * 3, -1))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer(pattern: str, bits: int) -> None:
    mosaic = np.zeros((8, 8), np.uint8)
    for i, letter in enumerate(pattern):
        mosaic[i // 2 :: 2, i % 2 :: 2] = _COLOUR["rgb".index(letter)]
    rows = mosaic if bits == 8 else mosaic.astype("<u2") << 8
    image = _message(rows, 8, 8, f"bayer_{pattern}{bits}").to_rgb()
    assert np.all(np.abs(image.astype(int) - _COLOUR) <= 1)


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
)
def test_yuv422(encoding: str, order: str) -> None:
    y, u, v = _yuv()
    rows = np.tile(np.array([{"y": y, "u": u, "v": v}[c] for c in order], np.uint8), (4, 3))  # 6 pixels a row
    image = _message(rows, 6, 4, encoding, padding=2).to_rgb()
    assert image.shape == (4, 6, 3)
    assert np.all(np.abs(image.astype(int) - _COLOUR) <= 4)


@pytest.mark.parametrize(("encoding", "order"), [("nv12", "uv"), ("nv21", "vu")])
def test_planar(encoding: str, order: str) -> None:
    y, u, v = _yuv()
    pair = [{"u": u, "v": v}[c] for c in order]
    rows = np.vstack([np.full((4, 6), y, np.uint8), np.tile(np.array(pair, np.uint8), (2, 3))])
    image = _message(rows, 6, 4, encoding, padding=2).to_rgb()
    assert image.shape == (4, 6, 3)
    assert np.all(np.abs(image.astype(int) - _COLOUR) <= 4)


def _yuv() -> tuple[int, int, int]:
    """_COLOUR in video-range BT.601."""
    r, g, b = _COLOUR
    return (
        round(16 + 0.257 * r + 0.504 * g + 0.098 * b),
        round(128 - 0.148 * r - 0.291 * g + 0.439 * b),
        round(128 + 0.439 * r - 0.368 * g - 0.071 * b),
    )


def test_rgb8_is_not_copied() -> None:
    message = _good()
    assert np.shares_memory(message.to_rgb(), np.frombuffer(message.data, np.uint8))


def test_more_data_than_needed_is_no_harm() -> None:
    message = _good()
    np.testing.assert_array_equal(replace(message, data=message.data + b"123").to_rgb(), _noise())


def _good() -> Fields:
    return _message(_noise(), 8, 6, "rgb8")


def _bad(**changes: object) -> Fields:
    return replace(_good(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (_bad(height=0), ("zero size", "8x0")),
        (_bad(width=0), ("zero size", "0x6")),
        (_bad(data=bytes(143)), ("143", "144", "height x step")),
        (_bad(data=b""), ("0 bytes", "height x step")),
        (_bad(step=23), ("23", "24", "rgb8")),
        (_bad(step=0), ("step is 0",)),
        (_bad(height=2**31), ("8x2147483648", "too large")),
        (_bad(width=2**14, height=2**12 + 1), ("too large",)),
        (_bad(height=7), ("144", "height x step")),
        (_bad(encoding="rgb9"), ("'rgb9'", "rgb8, bgr8")),
        (_bad(encoding=""), ("''", "rgb8, bgr8")),
        (_bad(encoding="32FC1"), ("'32FC1'",)),
        (_bad(encoding="a\nb" * 100), ("\\n",)),
        (_bad(encoding="mono16", is_bigendian=1), ("big-endian", "mono16")),
        (_bad(encoding="yuv422", width=7), ("7x6", "even")),
        (_bad(encoding="nv12", height=5), ("8x5", "even")),
        (_bad(encoding="nv12", height=6, step=24, data=bytes(9 * 24 - 1)), ("9 x 24",)),
    ],
)
def test_bad_messages_are_refused_in_one_line(message: Fields, words: tuple[str, ...]) -> None:
    with pytest.raises(InstformerError) as refusal:
        message.to_rgb()
    text = str(refusal.value)
    assert "\n" not in text and len(text) < 300
    for word in words:
        assert word in text
    assert ":" in text  # what is wrong: how to mend it


def test_big_endian_means_nothing_for_bytes() -> None:
    np.testing.assert_array_equal(_bad(is_bigendian=1).to_rgb(), _noise())


# --- Compressed ------------------------------------------------------------------------------------------------------


def _file(extension: str, image: NDArray[np.generic]) -> bytes:
    """A picture file; of RGB pictures, as OpenCV takes BGR."""
    return cv2.imencode(extension, image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


@pytest.mark.parametrize("format", ["png", "", "bgr8; png compressed bgr8", "rgb8; png compressed bgr8"])
def test_png_is_lossless(format: str) -> None:
    result = decompress(format, _file(".png", _noise()))
    np.testing.assert_array_equal(result, _noise())
    assert result.dtype == np.uint8 and result.flags.c_contiguous


@pytest.mark.parametrize("format", ["jpeg", "jpg", "rgb8; jpeg compressed bgr8"])
def test_jpeg_is_near(format: str) -> None:
    flat = np.full((32, 48, 3), _COLOUR, np.uint8)
    assert np.all(np.abs(decompress(format, _file(".jpg", flat)).astype(int) - _COLOUR) <= 3)


def test_a_file_whose_format_says_that_its_colours_are_swapped() -> None:
    result = decompress("rgb8; png compressed rgb8", _file(".png", _noise()[..., ::-1]))
    np.testing.assert_array_equal(result, _noise())


def test_grey_and_deep_files() -> None:
    grey = _noise()[..., 0]
    for data in (_file(".png", grey), _file(".png", (grey.astype(np.uint16) << 8) | 0x5A)):
        np.testing.assert_array_equal(decompress("mono16; png compressed ", data), np.stack([grey] * 3, -1))
    deep = (_noise().astype(np.uint16) << 8) | 0x5A
    np.testing.assert_array_equal(decompress("png", _file(".png", deep)), _noise())
    transparent = cv2.imencode(".png", np.dstack([_noise()[..., ::-1], grey]))[1].tobytes()
    np.testing.assert_array_equal(decompress("png", transparent), _noise())


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "bayer_rggb16"])
def test_a_compressed_mosaic(encoding: str) -> None:
    mosaic = _noise()[..., 0]
    result = decompress(f"{encoding}; png compressed ", _file(".png", mosaic))
    np.testing.assert_array_equal(result, _message(mosaic, 8, 6, "bayer_rggb8").to_rgb())


def test_a_jpeg_that_says_it_lies_on_its_side_keeps_the_pixels_of_the_sensor() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    file = io.BytesIO()
    PIL.Image.fromarray(np.zeros((24, 40, 3), np.uint8)).save(file, "jpeg", exif=exif)
    assert decompress("jpeg", file.getvalue()).shape == (24, 40, 3)


def _giant(width: int, height: int) -> bytes:
    """A small file whose head asks for much memory."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("format", "data", "words"),
    [
        ("jpeg", b"", ("'jpeg'", "0 bytes")),
        ("jpeg", b"no picture at all", ("'jpeg'", "17 bytes")),
        ("a\nb" * 100, b"x", ("\\n",)),
        ("jpeg", _file(".jpg", np.zeros((64, 64, 3), np.uint8))[:100], ("cannot be decoded",)),
        ("png", _giant(20000, 1), ("20000x1", "too large")),
        ("png", _giant(16000, 16000), ("pixels",)),
        ("16UC1; compressedDepth png", _file(".png", np.zeros((4, 4), np.uint16)), ("depth", "colour camera")),
    ],
)
def test_bad_compressed_images_are_refused_in_one_line(format: str, data: bytes, words: tuple[str, ...]) -> None:
    with pytest.raises(InstformerError) as refusal:
        decompress(format, data)
    text = str(refusal.value)
    assert "\n" not in text and len(text) < 300
    for word in words:
        assert word in text
    assert ":" in text
