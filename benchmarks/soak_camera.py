"""The hostile camera of the soak: good images of changing size and encoding, broken ones, stamps that jump.

Run by soak.py as a process of its own, so that it can be killed.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from soak_checks import Tag
from std_msgs.msg import Header

from instformer_ros.data.toyvis import ToyVideo
from instformer_ros.ros.qos import image_qos, reliability_policy

_SIZES = ((192, 256), (192, 256), (240, 320), (96, 128), (191, 255), (360, 640))
_ENCODINGS = ("rgb8", "rgb8", "bgr8", "rgba8", "mono8")
_BROKEN, _ODD_STAMP = 0.03, 0.02  # shares of all images


def main(generation: int, rate: float) -> None:
    """Publishes until it is killed."""
    rng = np.random.default_rng(generation)
    video = ToyVideo(int(rng.integers(1000)))
    pictures = [video.frame(t)[0] for t in range(video.length)]  # first: once it is known, it sends
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(f"hostile_camera_{generation}")
    raw = node.create_publisher(Image, "image", image_qos(reliability_policy("reliable"), depth=2))
    packed = node.create_publisher(
        CompressedImage, "image/compressed", image_qos(reliability_policy("reliable"), depth=2)
    )
    clock = node.create_publisher(Clock, "/clock", 10)
    size, encoding, offset, stamp, began = _SIZES[0], "rgb8", 0.0, 0.0, 0.0
    due = time.monotonic()
    for number in range(1 << 30):
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due + 1 / rate, time.monotonic() - 1.0)  # a stall is not made up for
        if number % 90 == 89:
            size, encoding = _SIZES[rng.integers(len(_SIZES))], _ENCODINGS[rng.integers(len(_ENCODINGS))]
        if rng.random() < 1 / (20 * rate):
            offset = float(rng.choice([0.0, -100.0, 100.0, 3.0]))
        if rng.random() >= _ODD_STAMP:  # else the stamp of the image before, or one a little earlier
            stamp = time.time() + offset
        elif rng.random() < 0.5:
            stamp -= 0.01
        now = Time(sec=int(stamp), nanosec=int(stamp % 1 * 1e9))
        clock.publish(Clock(clock=now))
        broken = rng.random() < _BROKEN
        image = np.asarray(cv2.resize(pictures[number % len(pictures)], (size[1], size[0])), np.uint8)
        compressed = packed.get_subscription_count() > 0
        quality = ("either" if compressed else "bad") if broken else "good"
        sent = time.time()
        began = began or sent
        tag = Tag(generation, number, *size, (now.sec, now.nanosec), sent, quality, began)
        header = Header(stamp=now, frame_id=tag.text())
        if compressed:
            packed.publish(_packed(image, header, broken, rng))
        else:
            raw.publish(_raw(image, encoding, header, broken, rng))


def _raw(image: NDArray[np.uint8], encoding: str, header: Header, broken: bool, rng: np.random.Generator) -> Image:
    codes = {"bgr8": cv2.COLOR_RGB2BGR, "rgba8": cv2.COLOR_RGB2RGBA, "mono8": cv2.COLOR_RGB2GRAY}
    pixels = cv2.cvtColor(image, codes[encoding]) if encoding in codes else image
    height, width = pixels.shape[:2]
    message = Image(header=header, height=height, width=width, encoding=encoding, step=pixels.nbytes // height)
    message.data = _bytes(pixels.tobytes())
    if broken:
        match rng.integers(6):
            case 0:
                message.data = message.data[: len(message.data) // 2]
            case 1:
                message.height = 0
            case 2:
                message.encoding = str(rng.choice(["", "rgb9", "8UC7", "bayer_rggb8 ", "\N{SNOWMAN}"]))
            case 3:
                message.step = 1
            case 4:
                message.width = 1 << 31
            case 5:
                message.data = _bytes(b"")
    return message


def _packed(image: NDArray[np.uint8], header: Header, broken: bool, rng: np.random.Generator) -> CompressedImage:
    data = bytearray(cv2.imencode(".jpg", image[..., ::-1])[1].tobytes())
    if broken:
        match rng.integers(3):
            case 0:
                del data[len(data) // 3 :]
            case 1:
                for place in rng.integers(len(data), size=50):
                    data[place] = int(rng.integers(256))
            case 2:
                data.clear()
    return CompressedImage(header=header, format="jpeg", data=_bytes(bytes(data)))


def _bytes(data: bytes) -> Any:
    """rclpy looks at every element of a plain bytes object; an array is taken whole."""
    import array

    return array.array("B", data)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
