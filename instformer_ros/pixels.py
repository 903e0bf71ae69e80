"""The bytes of an image message as an RGB array. No ROS here: the node and the reader of bags share it.

Without cv_bridge, which copies twice and breaks on new NumPy and OpenCV.
"""

from __future__ import annotations

import array
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from instformer_ros.structures import InstformerError

Pixels = NDArray[np.uint8]
Data: TypeAlias = "bytes | bytearray | memoryview | array.array[int] | Pixels"

LARGEST_SIDE = 16384  # pixels
MOST_PIXELS = 2**26  # a message asks for memory by a few numbers; more than this no camera of a robot delivers


@dataclass(frozen=True)
class _Encoding:
    """How the rows of one encoding look in memory and how they become RGB."""

    channels: int  # values per pixel in a row of the message
    bits: int  # per value
    to_rgb: Callable[[Pixels], Pixels]  # (rows, W, channels) or (rows, W) uint8 -> (H, W, 3) uint8
    even: bool = False  # colour is shared between neighbours, so the width has to be even
    planar: bool = False  # half as many rows again follow the picture, with its colour (4:2:0)


def _same(pixels: Pixels) -> Pixels:
    return pixels


def _by(code: int) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.asarray(cv2.cvtColor(pixels, code), dtype=np.uint8)


# cv2's own names for Bayer patterns are shifted by one row and one column against everybody else's; these are not.
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_UYVY = _Encoding(2, 8, _by(cv2.COLOR_YUV2RGB_UYVY), even=True)
_YUYV = _Encoding(2, 8, _by(cv2.COLOR_YUV2RGB_YUYV), even=True)

_ENCODINGS: dict[str, _Encoding] = {
    **{f"rgb{bits}": _Encoding(3, bits, _same) for bits in (8, 16)},
    **{f"bgr{bits}": _Encoding(3, bits, _by(cv2.COLOR_BGR2RGB)) for bits in (8, 16)},
    **{f"rgba{bits}": _Encoding(4, bits, _by(cv2.COLOR_RGBA2RGB)) for bits in (8, 16)},
    **{f"bgra{bits}": _Encoding(4, bits, _by(cv2.COLOR_BGRA2RGB)) for bits in (8, 16)},
    **{f"mono{bits}": _Encoding(1, bits, _by(cv2.COLOR_GRAY2RGB)) for bits in (8, 16)},
    **{f"bayer_{name}{bits}": _Encoding(1, bits, _by(code)) for name, code in _BAYER.items() for bits in (8, 16)},
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": _Encoding(1, 8, _by(cv2.COLOR_YUV2RGB_NV12), even=True, planar=True),
    "nv21": _Encoding(1, 8, _by(cv2.COLOR_YUV2RGB_NV21), even=True, planar=True),
}

ENCODINGS: tuple[str, ...] = tuple(_ENCODINGS)  # what to_rgb() takes


def to_rgb(encoding: str, height: int, width: int, step: int, is_bigendian: bool | int, data: Data) -> Pixels:
    """The picture of a ``sensor_msgs/Image``'s fields as a contiguous RGB array, (H, W, 3) uint8.

    Without copying where the message holds just that (``rgb8`` with no padding): the array then looks into ``data``
    itself, so neither may be written to while the other is in use. 16-bit encodings keep their upper eight bits.

    Args:
        encoding: One of :data:`ENCODINGS`, named as in ``sensor_msgs/image_encodings.hpp`` (``nv12`` beside them).
        height: Rows of the picture.
        width: Pixels in a row.
        step: Bytes from one row to the next.
        is_bigendian: Order of the bytes of a 16-bit value; means nothing for the others.
        data: At least ``height * step`` bytes, half as many again for 4:2:0.

    Raises:
        InstformerError: one line, for an image of zero or giant size, an encoding not known, 16-bit values in
            big-endian order, a step too short for the width, data too short for height x step, an odd width where
            colour is shared.
    """
    known = _ENCODINGS.get(encoding.lower())
    check_size(height, width)
    if known is None:
        names = "rgb8, bgr8, rgba8, bgra8, mono8, mono16, bayer_*, yuv422, yuv422_yuy2, nv12"
        raise InstformerError(f"image encoding {_short(encoding)} is not known: have the camera publish one of {names}")
    if known.bits == 16 and is_bigendian:
        raise InstformerError(
            f"image encoding '{encoding}' in big-endian order is not supported: have the camera publish "
            "little-endian (is_bigendian: 0) or an 8-bit encoding"
        )
    if known.even and (width % 2 or (known.planar and height % 2)):
        raise InstformerError(
            f"image of {width}x{height} cannot be '{encoding}', whose pixels share their colour in pairs: "
            "use an even size or another encoding"
        )
    row = width * known.channels * known.bits // 8
    if step < row:
        raise InstformerError(
            f"image step is {step} bytes, shorter than a row of {width} '{encoding}' pixels ({row} bytes): "
            "mend the step or the encoding in the camera driver"
        )
    rows = height * 3 // 2 if known.planar else height
    values = np.frombuffer(data, dtype=np.uint8)
    if values.size < rows * step:
        raise InstformerError(
            f"image data is {values.size} bytes, shorter than height x step ({rows} x {step} = {rows * step} bytes): "
            "the camera driver or the transport cut it off"
        )
    pixels = values[: rows * step].reshape(rows, step)[:, :row]  # (rows, bytes of a row), padding left out
    if known.bits == 16:
        pixels = pixels[:, 1::2]  # little-endian: the upper byte is the second
    if known.channels > 1:
        pixels = pixels.reshape(rows, width, known.channels)
    return np.ascontiguousarray(known.to_rgb(np.ascontiguousarray(pixels)))


def decompress(format: str, data: Data) -> Pixels:
    """The picture of a ``sensor_msgs/CompressedImage``'s fields as a contiguous RGB array, (H, W, 3) uint8.

    JPEG, PNG and whatever else OpenCV reads; the file itself says which. Of ``format`` counts only what
    compressed_image_transport writes into it: "compressed rgb8" swaps red and blue, and a grey file of a "bayer_*"
    image is its mosaic. 16-bit values keep their upper eight bits. The orientation that a JPEG may name is left alone,
    so that the pixels are those of the camera's calibration.

    Raises:
        InstformerError: one line, for depth images, giant sizes and data that are no picture.
    """
    if "compresseddepth" in format.lower():
        raise InstformerError(
            f"compressed image of format {_short(format)} is a depth image: remap the topic to the colour camera"
        )
    check_size(*_size_of_file(format, data))
    try:
        # Grey files stay grey, all others become BGR of 8 bits.
        flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise _no_picture(format, data)
    encoding, _, compressed = format.lower().partition(";")
    if pixels.ndim == 2:
        mosaic = encoding.strip().removesuffix("16").removesuffix("8") + "8"
        kind = mosaic if mosaic.startswith("bayer_") and mosaic in _ENCODINGS else "mono8"
    else:
        kind = "rgb8" if "compressed rgb" in compressed else "bgr8"
    return np.ascontiguousarray(_ENCODINGS[kind].to_rgb(np.asarray(pixels, np.uint8)))


def _size_of_file(format: str, data: Data) -> tuple[int, int]:
    """Height and width that the head of a picture file names, before any memory is taken for its pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with PIL.Image.open(io.BytesIO(np.frombuffer(data, np.uint8).data)) as file:
                return file.height, file.width
    except PIL.Image.DecompressionBombError:
        raise InstformerError(
            f"compressed image names more than {MOST_PIXELS} pixels: have the camera publish smaller pictures"
        ) from None
    except Exception:  # Pillow raises many kinds over a damaged file
        raise _no_picture(format, data) from None


def _no_picture(format: str, data: Data) -> InstformerError:
    return InstformerError(
        f"compressed image of format {_short(format)} ({len(data)} bytes) cannot be decoded: have the camera publish "
        "jpeg or png, and check that the transport cuts nothing off"
    )


def check_size(height: int, width: int) -> None:
    if height == 0 or width == 0:
        raise InstformerError(f"image has zero size ({width}x{height}): check that the camera is delivering pictures")
    if height > LARGEST_SIDE or width > LARGEST_SIDE or height * width > MOST_PIXELS:
        raise InstformerError(
            f"image of {width}x{height} pixels is too large (at most {LARGEST_SIDE} a side and {MOST_PIXELS} in all): "
            "have the camera publish smaller pictures"
        )


def _short(text: str, limit: int = 40) -> str:
    """A foreign text for a one-line message: quoted, control characters escaped, cut."""
    return repr(text if len(text) <= limit else text[:limit] + "…")
