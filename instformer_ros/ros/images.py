"""sensor_msgs/Image and CompressedImage <-> RGB arrays. The bytes themselves: :mod:`instformer_ros.pixels`."""

from __future__ import annotations

import array

import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from instformer_ros.pixels import ENCODINGS, Pixels, check_size, decompress, to_rgb

try:
    from cv_bridge import CvBridge
except Exception:  # not installed, or broken by the NumPy or OpenCV at hand
    CvBridge = None

__all__ = ["ENCODINGS", "Pixels", "from_compressed", "from_message", "to_message"]


def from_message(message: Image) -> Pixels:
    """The picture of a message as a contiguous RGB array, (H, W, 3) uint8, without copying where it can.

    Encodings that are not known here go through cv_bridge where it is installed.

    Raises InstformerError, one line: see :func:`instformer_ros.pixels.to_rgb`.
    """
    if message.encoding.lower() not in ENCODINGS and CvBridge is not None:
        check_size(message.height, message.width)  # cv_bridge knows no limit
        try:
            return np.ascontiguousarray(CvBridge().imgmsg_to_cv2(message, "rgb8"), dtype=np.uint8)
        except Exception:  # CvBridgeError, and others for odd fields: refused below, in one line
            pass
    return to_rgb(message.encoding, message.height, message.width, message.step, message.is_bigendian, message.data)


def from_compressed(message: CompressedImage) -> Pixels:
    """The picture of a compressed message as a contiguous RGB array, (H, W, 3) uint8.

    Raises InstformerError, one line: see :func:`instformer_ros.pixels.decompress`.
    """
    return decompress(message.format, message.data)


def to_message(image: Pixels, header: Header) -> Image:
    """An ``rgb8`` message with a copy of an RGB image, (H, W, 3) uint8; ``header`` is taken as it is.

    The data goes in as an ``array.array``, which the message takes without looking at every byte (0.6 ms at 720p
    against 130-360 ms for a list or an ndarray).
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"need (H, W, 3) uint8, got {image.shape} {image.dtype}")
    height, width, _ = image.shape
    message = Image(header=header, height=height, width=width, encoding="rgb8", step=width * 3)
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(image).data.cast("B"))
    message.data = data
    return message
