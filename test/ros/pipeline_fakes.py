"""What the tests of the pipeline put around it: pictures that are numbers, and an outlet that remembers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from rclpy.qos import ReliabilityPolicy
from ros_fakes import FakeEngine

from instformer_ros.nodes.pipeline import Pipeline
from instformer_ros.nodes.protocols import Pixels
from instformer_ros.structures import InstformerError, TrackedFrame, Vocabulary

_RELIABLE, _BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


@dataclass
class Picture:
    number: int
    image: Pixels = field(default_factory=lambda: np.zeros((4, 6, 3), np.uint8))


class Outlet:
    """Takes numbers for messages; negative ones are bad."""

    def __init__(self) -> None:
        self.published: list[tuple[str, int, int]] = []  # camera, message, vocabulary version
        self.vocabularies: list[Vocabulary] = []
        self.complaints: list[tuple[str, str]] = []
        self.deaths: list[str] = []
        self.deaf = False
        self.fault: BaseException | None = None  # raised by every publication while it is set
        self.publish_time = 0.0  # seconds
        self.gate = threading.Event()  # shut, it holds publications up
        self.gate.set()
        self.begun = 0  # publications

    def decode(self, camera: str, message: int) -> Picture:
        if message < 0:
            raise InstformerError(f"image {message} is negative: count up")
        return Picture(message)

    def publish(self, camera: str, frame: Picture, answer: TrackedFrame) -> None:
        self.begun += 1
        if self.deaf:
            raise RuntimeError("no publisher")
        if self.fault is not None:
            raise self.fault
        time.sleep(self.publish_time)
        assert self.gate.wait(10)
        self.published.append((camera, frame.number, answer.vocabulary.version))

    def vocabulary_changed(self, vocabulary: Vocabulary, unknown: tuple[str, ...]) -> None:
        self.vocabularies.append(vocabulary)

    def complain(self, subject: str, error: BaseException) -> None:
        self.complaints.append((subject, str(error)))

    def died(self, error: BaseException) -> None:
        self.deaths.append(str(error))


Make = Callable[..., tuple[Pipeline[int, Picture], FakeEngine, Outlet]]


def film(pipeline: Pipeline[int, Picture]) -> threading.Event:
    """A camera that sends an image each millisecond, until the event is set."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            pipeline.put("a", 1)
            time.sleep(0.001)

    threading.Thread(target=run, daemon=True).start()
    return stop
