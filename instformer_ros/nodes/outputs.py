"""The node's output topics: a class for each, made for every camera, at work only while somebody listens.

A new output is one class here (or in a file of its own) and one line in :func:`make_outputs`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from instformer_ros.draw import overlay
from instformer_ros.msg import InstanceArray
from instformer_ros.ros import images, qos
from instformer_ros.ros.frames import CameraFrame
from instformer_ros.ros.messages import instance_array
from instformer_ros.structures import TrackedFrame


@dataclass(frozen=True)
class OutputSettings:
    """What the outputs take from the parameters of the same names; live."""

    publish_masks: bool = True
    overlay_opacity: float = 0.5


OUTPUT_SETTINGS = tuple(field.name for field in fields(OutputSettings))


class Output(Protocol):
    """One output of one camera. All but the making and :meth:`close` happens in the pipeline's worker."""

    name: str  # for logs and timings

    def wanted(self) -> bool:
        """Whether anybody listens."""

    def publish(self, frame: CameraFrame, answer: TrackedFrame, settings: OutputSettings) -> None:
        """Sends what the engine answered to a frame, under the frame's own header."""

    def close(self) -> None:
        """Ends the topic."""


class Topic:
    """Base of the outputs that are one topic: ``~/NAME``, or ``~/CAMERA/NAME`` where cameras are named."""

    def __init__(self, node: LifecycleNode, camera: str, name: str, message_type: Any, profile: QoSProfile) -> None:
        self.name = name
        self._node = node
        topic = f"~/{camera}/{name}" if camera else f"~/{name}"
        self._publisher = node.create_lifecycle_publisher(
            message_type, topic, profile, qos_overriding_options=qos.overridable()
        )

    def wanted(self) -> bool:
        return bool(self._publisher.get_subscription_count())

    def close(self) -> None:
        self._node.destroy_lifecycle_publisher(self._publisher)


class InstancesOutput(Topic):
    """``~/instances``: the tracked instances of every image, also when there are none."""

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        super().__init__(node, camera, "instances", InstanceArray, qos.RESULTS)

    def publish(self, frame: CameraFrame, answer: TrackedFrame, settings: OutputSettings) -> None:
        self._publisher.publish(instance_array(answer, frame.header, settings.publish_masks))


class OverlayOutput(Topic):
    """``~/overlay``: the picture with masks, names and ids drawn in."""

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        super().__init__(node, camera, "overlay", Image, qos.OVERLAY)

    def publish(self, frame: CameraFrame, answer: TrackedFrame, settings: OutputSettings) -> None:
        picture = overlay(frame.image, answer, settings.overlay_opacity)
        self._publisher.publish(images.to_message(picture, frame.header))


def make_outputs(node: LifecycleNode, camera: str) -> list[Output]:
    """All outputs of a camera, in the order of publication: what others steer by comes first."""
    return [kind(node, camera) for kind in (InstancesOutput, OverlayOutput)]


def publish_all(
    outputs: Sequence[Output], frame: CameraFrame, answer: TrackedFrame, settings: OutputSettings
) -> dict[str, float]:
    """Publishes the outputs that are wanted. Returns the seconds that each took."""
    seconds: dict[str, float] = {}
    for output in outputs:
        if output.wanted():
            started = time.perf_counter()
            output.publish(frame, answer, settings)
            seconds[output.name] = time.perf_counter() - started
    return seconds
