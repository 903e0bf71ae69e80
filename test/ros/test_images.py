"""Image messages and RGB arrays: fields reach :mod:`instformer_ros.pixels`, tested by itself, and pixels come back."""

from __future__ import annotations

import array

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from instformer_ros.ros.images import from_compressed, from_message, to_message


def _noise(height: int = 6, width: int = 8) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_every_field_counts() -> None:
    grey = _noise()[..., 0]
    message = Image(height=6, width=8, encoding="mono8", step=11)
    message.data = array.array("B", np.pad(grey, ((0, 0), (0, 3)), constant_values=77).tobytes())
    np.testing.assert_array_equal(from_message(message), np.stack([grey] * 3, -1))


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


def test_compressed() -> None:
    message = CompressedImage(format="bgr8; png compressed bgr8")
    message.data = array.array("B", cv2.imencode(".png", _noise()[..., ::-1])[1].tobytes())
    np.testing.assert_array_equal(from_compressed(message), _noise())


def test_to_message_refuses_what_is_no_rgb() -> None:
    with pytest.raises(ValueError, match="uint8"):
        to_message(np.zeros((4, 4), np.uint8), Header())
