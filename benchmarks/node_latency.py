"""What the node adds to the network: from an image's message in hand to its results published, without DDS's own time.

    source scripts/env.sh && python benchmarks/node_latency.py --frames 300 --size 1280x720 --instances 50

The engine is made up: it answers at once, with the same instances every time (ellipses with their masks encoded).
The parts, in microseconds:

- receive: the subscription's callback, which hands the message to the worker;
- wait: until the worker has it;
- decode: the message becomes an array;
- messages: the result becomes an InstanceArray;
- publish: rclpy takes the InstanceArray, serialises it and gives it to DDS;
- overhead: everything from the callback's start to the end of publication, less the engine.

Image encodings take turns frame by frame, so that whatever else the machine does meets them alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from instformer_ros import masks
from instformer_ros.msg import InstanceArray
from instformer_ros.nodes import outputs
from instformer_ros.nodes.openvis_node import OpenVisNode
from instformer_ros.ros import qos
from instformer_ros.ros.images import to_message
from instformer_ros.settings import Settings
from instformer_ros.structures import Session, TrackedFrame, TrackedInstance, TrackState, Vocabulary

_ENCODINGS = ("rgb8", "bgr8", "bayer_rggb8", "yuv422_yuy2")
_PARTS = ("receive", "wait", "decode", "messages", "publish", "overhead")


@dataclass
class Answered:
    """A frame that has been answered."""

    frame: TrackedFrame

    def finish(self) -> TrackedFrame:
        return self.frame


class InstantEngine:
    """Stands for the engine: answers every image with the same instances."""

    device = "none"
    device_memory = 0
    shortage = ""
    unknown_words: tuple[str, ...] = ()

    def __init__(self, settings: Settings, height: int, width: int, count: int) -> None:
        self.settings = settings
        self.vocabulary = Vocabulary()
        self.seconds: list[float] = []
        self._size = height, width
        self._instances = [_ellipse(index, count, height, width) for index in range(count)]

    def warm_up(self) -> None: ...

    def encode_vocabulary(self, names: Sequence[str], pause: Any = None) -> tuple[str, ...]:
        return tuple(names)

    def use_vocabulary(self, encoded: tuple[str, ...]) -> Vocabulary:
        self.vocabulary = Vocabulary(self.vocabulary.version + 1, encoded)
        return self.vocabulary

    def begin(self, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, Answered]:
        started = time.perf_counter()
        answer = {
            camera: Answered(TrackedFrame(*self._size, self.vocabulary, len(self.seconds), list(self._instances)))
            for camera in images
        }
        self.seconds.append(time.perf_counter() - started)
        return answer

    def reset(self, camera: str | None = None) -> None: ...

    def close(self) -> None: ...


def _ellipse(index: int, count: int, height: int, width: int) -> TrackedInstance:
    """An object of some hundredths of the picture, somewhere."""
    random = np.random.default_rng(index)
    picture = np.zeros((height, width), np.uint8)
    centre = int(random.integers(width)), int(random.integers(height))
    axes = int(random.integers(width // 40, width // 8)), int(random.integers(height // 40, height // 8))
    cv2.ellipse(picture, centre, axes, float(random.integers(180)), 0, 360, 1, -1)
    rle = masks.encode(picture.astype(bool))
    number = index + 1
    return TrackedInstance(number, TrackState.TRACKED, 9, 0, number, index % 3, "mug", 0.7, 0.9, masks.box(rle), rle)


class Watch:
    """Times the parts of one frame after another."""

    def __init__(self, node: OpenVisNode, engine: InstantEngine) -> None:
        self.rows: list[dict[str, float]] = []
        self._row: dict[str, float] = {}
        self._node = node
        self._engine = engine
        self._publish = node.publish
        node.publish = self._timed_publish  # type: ignore[method-assign]
        make = outputs.instance_array

        def timed_make(*arguments: Any) -> InstanceArray:
            started = time.perf_counter()
            message = make(*arguments)
            self._row["messages"] = time.perf_counter() - started
            return message

        outputs.instance_array = timed_make  # type: ignore[assignment]

    def receive(self, message: Image) -> None:
        """What the executor does with a message that it has taken."""
        done = len(self.rows)
        self._row = {}
        self._started = time.perf_counter()
        camera = self._node._cameras[""].input
        assert camera is not None
        camera._on_image(message)
        self._row["receive"] = time.perf_counter() - self._started
        while len(self.rows) == done:
            time.sleep(0.0005)

    def _timed_publish(self, camera: str, frame: Any, answer: TrackedFrame) -> None:
        started = time.perf_counter()
        self._publish(camera, frame, answer)
        ended = time.perf_counter()
        row = self._row
        row.update(wait=answer.timings["wait"], decode=answer.timings["decode"])
        row["publish"] = ended - started - row["messages"]
        row["overhead"] = ended - self._started - self._engine.seconds[-1]
        self.rows.append(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300, help="of each encoding (default: 300)")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--instances", type=int, default=50)
    parser.add_argument("--json", help="also write all figures to this file")
    arguments = parser.parse_args()
    width, height = (int(number) for number in arguments.size.split("x"))

    rclpy.init()
    engines: list[InstantEngine] = []

    def load(model: str, device: str, settings: Settings, *, precision: str, session: Session) -> InstantEngine:
        engines.append(InstantEngine(settings, height, width, arguments.instances))
        return engines[-1]

    quiet = [Parameter("report_interval", value=0.0), Parameter("vocabulary", value=["mug", "drill", "person"])]
    node = OpenVisNode(load, parameter_overrides=quiet)
    listener = rclpy.create_node("listener")
    heard: list[InstanceArray] = []
    listener.create_subscription(InstanceArray, "openvis/instances", heard.append, qos.RESULTS)
    node.start()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.add_node(listener)
    while not node.count_subscribers("openvis/instances"):
        executor.spin_once(0.1)
    time.sleep(1.0)

    watch = Watch(node, engines[0])
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    samples = {encoding: _message(picture, encoding) for encoding in _ENCODINGS}
    times: dict[str, list[dict[str, float]]] = {encoding: [] for encoding in _ENCODINGS}
    for number in range(arguments.frames + 20):
        for encoding, message in samples.items():
            watch.receive(message)
            if number >= 20:  # the first ones are warm-up
                times[encoding].append(watch.rows[-1])
            executor.spin_once(0)
    size = sum(len(instance.mask) for instance in heard[-1].instances)
    figures = {
        encoding: {
            part: {"median": _micro(statistics.median(v)), "p99": _micro(float(np.quantile(v, 0.99)))}
            for part in _PARTS
            for v in [[row[part] for row in rows]]
        }
        for encoding, rows in times.items()
    }
    print(f"{arguments.size}, {arguments.instances} instances ({size} B of masks), {arguments.frames} frames of each")
    print(f"{'median / p99, µs':<18}" + "".join(f"{encoding:>20}" for encoding in _ENCODINGS))
    for part in _PARTS:
        cells = (figures[encoding][part] for encoding in _ENCODINGS)
        print(f"{part:<18}" + "".join(f"{cell['median']:>11} / {cell['p99']:<6}" for cell in cells))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(figures, file, indent=1)
    node.close()
    executor.shutdown()
    rclpy.try_shutdown()


def _message(picture: NDArray[np.uint8], encoding: str) -> Image:
    """Noise as a camera of this encoding sends it."""
    message = to_message(picture, Header(frame_id="camera"))
    channels = {"rgb8": 3, "bgr8": 3, "bayer_rggb8": 1, "yuv422_yuy2": 2}[encoding]
    message.encoding, message.step = encoding, message.width * channels
    message.data = message.data[: message.height * message.step]
    return message


def _micro(seconds: float) -> int:
    return round(seconds * 1e6)


if __name__ == "__main__":
    main()
