"""Bags for tests, written with ``rosbags``: a few pictures of known pixels under known stamps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

START = 1_700_000_000_000_000_000  # nanoseconds
PERIOD = 50_000_000  # 20 Hz
STORE: Any = get_typestore(Stores.ROS2_HUMBLE)


def pictures(count: int = 3, height: int = 20, width: int = 32) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(3).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def header(index: int) -> Any:
    moment = START + index * PERIOD
    stamp = STORE.types["builtin_interfaces/msg/Time"](sec=moment // 10**9, nanosec=moment % 10**9)
    return STORE.types["std_msgs/msg/Header"](stamp=stamp, frame_id="eye")


def raw(index: int, image: NDArray[np.uint8], encoding: str = "bgr8", **changes: Any) -> Any:
    fields = {
        "header": header(index),
        "height": image.shape[0],
        "width": image.shape[1],
        "encoding": encoding,
        "is_bigendian": 0,
        "step": image.shape[1] * 3,
        "data": np.ascontiguousarray(image[..., ::-1]).reshape(-1),
    }
    return STORE.types["sensor_msgs/msg/Image"](**{**fields, **changes})


def compressed(index: int, image: NDArray[np.uint8]) -> Any:
    data = cv2.imencode(".png", image[..., ::-1])[1]
    return STORE.types["sensor_msgs/msg/CompressedImage"](
        header=header(index), format="bgr8; png compressed", data=data
    )


def text(index: int) -> Any:
    return STORE.types["std_msgs/msg/String"](data=f"hello {index}")


def write(
    path: Path,
    topics: dict[str, Sequence[Any]],
    plugin: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.NONE,
) -> Path:
    """A bag at ``path``, a new folder; message n of each topic is logged a millisecond after its stamp."""
    writer = Writer(path, version=9, storage_plugin=plugin)
    if compression != CompressionMode.NONE:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        for topic, messages in topics.items():
            kind = messages[0].__msgtype__
            connection = writer.add_connection(topic, kind, typestore=STORE)
            for index, message in enumerate(messages):
                moment = START + index * PERIOD + 1_000_000
                writer.write(connection, moment, STORE.serialize_cdr(message, kind))
    return path
