"""Image messages: every encoding against a picture known beforehand, every kind of bad message against its refusal."""

from __future__ import annotations

import array

import numpy as np
import pytest
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from instformer_ros.ros.images import from_message, to_message
from instformer_ros.structures import InstformerError

_COLOUR = (200, 90, 30)


def _message(rows: NDArray[np.generic], width: int, height: int, encoding: str, padding: int = 0) -> Image:
    data = rows.reshape(rows.shape[0], -1).view(np.uint8)
    padded = np.pad(data, ((0, 0), (0, padding)), constant_values=77)
    message = Image(height=height, width=width, encoding=encoding, step=padded.shape[1])
    message.data = array.array("B", padded.tobytes())
    return message


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
    result = from_message(message)
    np.testing.assert_array_equal(result, image)
    assert result.dtype == np.uint8 and result.flags.c_contiguous


def test_mono() -> None:
    grey = _noise()[..., 0]
    np.testing.assert_array_equal(from_message(_message(grey, 8, 6, "mono8")), np.stack([grey] * 3, -1))
    deep = _message(grey.astype("<u2") << 8, 8, 6, "mono16", padding=4)
    np.testing.assert_array_equal(from_message(deep), np.stack([grey] * 3, -1))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer(pattern: str, bits: int) -> None:
    mosaic = np.zeros((8, 8), np.uint8)
    for i, letter in enumerate(pattern):
        mosaic[i // 2 :: 2, i % 2 :: 2] = _COLOUR["rgb".index(letter)]
    rows = mosaic if bits == 8 else mosaic.astype("<u2") << 8
    image = from_message(_message(rows, 8, 8, f"bayer_{pattern}{bits}"))
    assert np.all(np.abs(image.astype(int) - _COLOUR) <= 1)


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
)
def test_yuv422(encoding: str, order: str) -> None:
    y, u, v = _yuv()
    rows = np.tile(np.array([{"y": y, "u": u, "v": v}[c] for c in order], np.uint8), (4, 3))  # 6 pixels a row
    image = from_message(_message(rows, 6, 4, encoding, padding=2))
    assert image.shape == (4, 6, 3)
    assert np.all(np.abs(image.astype(int) - _COLOUR) <= 4)


@pytest.mark.parametrize(("encoding", "order"), [("nv12", "uv"), ("nv21", "vu")])
def test_planar(encoding: str, order: str) -> None:
    y, u, v = _yuv()
    pair = [{"u": u, "v": v}[c] for c in order]
    rows = np.vstack([np.full((4, 6), y, np.uint8), np.tile(np.array(pair, np.uint8), (2, 3))])
    image = from_message(_message(rows, 6, 4, encoding, padding=2))
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
    message = to_message(_noise(), Header())
    assert np.shares_memory(from_message(message), np.frombuffer(message.data, np.uint8))


def test_back_and_forth() -> None:
    header = Header(frame_id="eye")
    header.stamp.sec = 5
    image = _noise(7, 9)
    message = to_message(image[:, ::-1], header)  # not contiguous
    assert (message.height, message.width, message.step, message.encoding) == (7, 9, 27, "rgb8")
    assert message.header == header
    np.testing.assert_array_equal(from_message(message), image[:, ::-1])


def test_to_message_refuses_what_is_no_rgb() -> None:
    with pytest.raises(ValueError, match="uint8"):
        to_message(np.zeros((4, 4), np.uint8), Header())


def test_more_data_than_needed_is_no_harm() -> None:
    message = to_message(_noise(), Header())
    message.data.extend([1, 2, 3])
    np.testing.assert_array_equal(from_message(message), _noise())


def _bad(**changes: object) -> Image:
    message = to_message(_noise(), Header())
    for name, value in changes.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (_bad(height=0), ("zero size", "8x0")),
        (_bad(width=0), ("zero size", "0x6")),
        (_bad(data=array.array("B", bytes(143))), ("143", "144", "height x step")),
        (_bad(data=array.array("B")), ("0 bytes", "height x step")),
        (_bad(step=23), ("23", "24", "rgb8")),
        (_bad(step=0), ("step is 0",)),
        (_bad(height=2**31), ("height x step",)),
        (_bad(encoding="rgb9"), ("'rgb9'", "rgb8, bgr8")),
        (_bad(encoding=""), ("''", "rgb8, bgr8")),
        (_bad(encoding="32FC1"), ("'32FC1'",)),
        (_bad(encoding="a\nb" * 100), ("\\n",)),
        (_bad(encoding="mono16", is_bigendian=1), ("big-endian", "mono16")),
        (_bad(encoding="yuv422", width=7), ("7x6", "even")),
        (_bad(encoding="nv12", height=5), ("8x5", "even")),
        (_bad(encoding="nv12", height=6, step=24, data=array.array("B", bytes(9 * 24 - 1))), ("9 x 24",)),
    ],
)
def test_bad_messages_are_refused_in_one_line(message: Image, words: tuple[str, ...]) -> None:
    with pytest.raises(InstformerError) as refusal:
        from_message(message)
    text = str(refusal.value)
    assert "\n" not in text and len(text) < 300
    for word in words:
        assert word in text
    assert ":" in text  # what is wrong: how to mend it


def test_big_endian_means_nothing_for_bytes() -> None:
    np.testing.assert_array_equal(from_message(_bad(is_bigendian=1)), _noise())
