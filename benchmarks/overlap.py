"""What it gives to publish one frame's results while the network is at the next: frames a second and latency.

    source scripts/env.sh && python benchmarks/overlap.py --size 1280x720 --rounds 20

The node with a real engine sees a ToyVIS video; its instances and its overlay are listened to. The node's pipeline (a
thread for the results: "beside") takes turns with one whose worker publishes by itself before it begins the next pass
("after"), both with the same engine in the same process, every other round the other way round. Ratios are taken round
by round.

By default the next frame always waits already, so the rate is what the machine can do. With ``--rate`` frames come at a
camera's pace. Latency is counted from the moment the worker takes a frame (without ``--rate``) or the frame arrives
(with it) until all its results are published.

``--wait`` stands for a network on another device: the engine sleeps so long in place of every pass, and gives the
answers that the real one gave before. That the host is busy with a GPU as well is not in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import rclpy
import torch
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from instformer_ros.answers import PendingFrame
from instformer_ros.data.toyvis import ToyVideo
from instformer_ros.engine import Engine
from instformer_ros.memory import keep_freed_memory
from instformer_ros.msg import InstanceArray
from instformer_ros.nodes import openvis_node
from instformer_ros.nodes.inputs import Arrival
from instformer_ros.nodes.openvis_node import OpenVisNode
from instformer_ros.nodes.pipeline import Pipeline
from instformer_ros.nodes.protocols import EngineLike, Pixels
from instformer_ros.nodes.results import PassResults
from instformer_ros.ros import qos
from instformer_ros.ros.frames import CameraFrame
from instformer_ros.ros.images import to_message
from instformer_ros.settings import Settings
from instformer_ros.speed.timing import environment
from instformer_ros.structures import Session, TrackedFrame

_MODES = ("beside", "after")  # the next pass, before the next pass
_KINDS = {"instances": InstanceArray, "overlay": Image, "label_image": Image}


class SwitchedPipeline(Pipeline[Arrival, CameraFrame]):
    """The node's, or one whose worker publishes by itself."""

    beside = True

    def _hand_over(self, results: PassResults[CameraFrame]) -> None:
        if self.beside:
            super()._hand_over(results)
        else:
            self._publish(results)


class WaitingEngine:
    """Answers the video's frames as the engine did the first time, after a while of doing nothing."""

    def __init__(self, engine: Engine, seconds: float, frames: int) -> None:
        self._engine = engine
        self._seconds = seconds
        self._frames = frames
        self._answers: list[PendingFrame] = []
        self._number = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def begin(self, images: Mapping[str, Pixels]) -> dict[str, PendingFrame]:
        if len(self._answers) < self._frames:
            self._answers.append(self._engine.begin(images)[""])
        else:
            time.sleep(self._seconds)
        answer = self._answers[self._number % self._frames]
        self._number += 1
        answer.frame.timings = {"waiting": self._seconds}
        return {"": answer}


class Camera:
    """Feeds the node's pipeline, and notes when each frame was taken, or came, and when its results were out."""

    def __init__(self, node: OpenVisNode, messages: Sequence[Image]) -> None:
        assert isinstance(node._pipeline, SwitchedPipeline)
        self.pipeline = node._pipeline
        self._messages = messages
        self._decode, self._publish = node.decode, node.publish
        node.decode, node.publish = self._timed_decode, self._timed_publish  # type: ignore[method-assign, assignment]
        self._done = threading.Event()
        self._number = self._left = 0
        self._rate = 0.0

    def film(self, frames: int, rate: float) -> dict[str, float]:
        """One round. Returns frames a second, the median latency in seconds, and processor seconds a frame."""
        self.pipeline.discard()
        self._begun: dict[int, float] = {}
        self._ended: list[tuple[float, float]] = []  # when, latency
        self._left, self._rate = frames, rate
        self._done.clear()
        spent = time.process_time()
        self._put()
        while rate and not self._done.wait(1.0 / rate):
            self._put()
        assert self._done.wait(600)
        spent = time.process_time() - spent
        self.pipeline.discard()
        first, last = self._ended[0][0], self._ended[-1][0]
        return {
            "rate": (len(self._ended) - 1) / (last - first),
            "latency": statistics.median(latency for _, latency in self._ended),
            "processor": spent / len(self._ended),
        }

    def _put(self) -> None:
        message = self._messages[self._number % len(self._messages)]
        self._number += 1
        message = Image(  # a header of its own, whose stamp tells it from the others; the picture itself is shared
            header=Header(frame_id="camera"),
            height=message.height,
            width=message.width,
            encoding=message.encoding,
            step=message.step,
            data=message.data,
        )
        message.header.stamp.sec = self._number
        if self._rate:
            self._begun[self._number] = time.perf_counter()
        self.pipeline.put("", Arrival(message))

    def _timed_decode(self, camera: str, arrival: Arrival) -> CameraFrame:
        if not self._rate:
            self._begun[arrival.image.header.stamp.sec] = time.perf_counter()
            if self._left > 0:
                self._left -= 1
                self._put()
        return self._decode(camera, arrival)

    def _timed_publish(self, camera: str, frame: CameraFrame, answer: TrackedFrame) -> None:
        self._publish(camera, frame, answer)
        now = time.perf_counter()
        self._ended.append((now, now - self._begun[frame.header.stamp.sec]))
        if self._rate:
            self._left -= 1
        if self._left <= 0:
            self._done.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--frames", type=int, default=36, help="of each round and mode (default: 36)")
    parser.add_argument("--rate", type=float, default=0.0, help="frames a second that come; 0: as many as can be")
    parser.add_argument("--wait", type=float, default=0.0, help="milliseconds that the engine sleeps; 0: it computes")
    parser.add_argument("--topics", nargs="*", choices=list(_KINDS), default=["instances", "overlay"])
    parser.add_argument("--model", default="toyvis")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="of the network; 0: one fewer than there are cores")
    parser.add_argument("--json", help="also write all figures to this file")
    arguments = parser.parse_args()
    width, height = (int(number) for number in arguments.size.split("x"))
    video = ToyVideo(1)
    messages = [
        to_message(np.asarray(cv2.resize(video.frame(t)[0], (width, height)), np.uint8), Header()) for t in range(36)
    ]

    keep_freed_memory()
    rclpy.init()
    openvis_node.Pipeline = SwitchedPipeline  # type: ignore[misc, assignment]
    parameters = {
        "report_interval": 0.0,
        "vocabulary": sorted(set(video.names)),
        "model": arguments.model,
        "device": arguments.device,
        "threads": arguments.threads,
    }

    def load(model: str, device: str, settings: Settings, *, precision: str, session: Session) -> EngineLike:
        engine = Engine.load(model, device, settings, precision=precision, session=session)
        if not arguments.wait:
            return engine
        return cast(EngineLike, WaitingEngine(engine, 1e-3 * arguments.wait, len(messages)))

    overrides = [Parameter(name, value=value) for name, value in parameters.items()]
    node = OpenVisNode(load, parameter_overrides=overrides)
    listener = rclpy.create_node("listener")  # it never takes its messages, which would be work in this process
    for topic in arguments.topics:
        listener.create_subscription(_KINDS[topic], f"openvis/{topic}", lambda message: None, qos.OVERLAY)
    node.start()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not all(node.count_subscribers(f"openvis/{topic}") for topic in arguments.topics):
        executor.spin_once(0.1)

    camera = Camera(node, messages)
    rows: dict[str, list[dict[str, float]]] = {mode: [] for mode in _MODES}
    for number in range(-2, arguments.rounds):
        for mode in _MODES[:: 1 if number % 2 else -1]:
            camera.pipeline.beside = mode == "beside"
            row = camera.film(arguments.frames, arguments.rate)
            if number >= 0:  # the first two rounds are warm-up
                rows[mode].append(row)
    stages = node._cameras[""].statistics.summary().stages
    print(
        f"{arguments.model}, {arguments.size}, {' and '.join(arguments.topics)}, {torch.get_num_threads()} threads, "
        f"{arguments.rounds} rounds of {arguments.frames} frames: median (quartiles)"
    )
    for part, unit, scale in (("rate", "Hz", 1), ("latency", "ms", 1e3), ("processor", "ms", 1e3)):
        line = [f"{mode} {_span([scale * row[part] for row in rows[mode]])} {unit}" for mode in _MODES]
        ratio = [a[part] / b[part] for a, b in zip(rows["beside"], rows["after"], strict=True)]
        print(f"  {part:<10} {', '.join(line)}; beside / after {_span(ratio)}")
    print("  last stages: " + ", ".join(f"{stage} {1e3 * seconds:.1f} ms" for stage, seconds in stages.items()))
    if arguments.json:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
        figures = {"environment": environment(torch.device(arguments.device)), "rounds": rows}
        Path(arguments.json).write_text(json.dumps(figures, indent=1), encoding="utf-8")
    node.close()
    executor.shutdown()
    rclpy.try_shutdown()


def _span(values: Sequence[float]) -> str:
    """Median and quartiles."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.3g} ({low:.3g}-{high:.3g})"


if __name__ == "__main__":
    main()
