"""What an output of the node is, and what it works from."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Protocol

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from instformer_ros.ros import qos
from instformer_ros.ros.frames import CameraFrame
from instformer_ros.ros.markers import BODY_UP, OPTICAL_UP
from instformer_ros.ros.transforms import TargetFrame
from instformer_ros.structures import TrackedFrame
from instformer_ros.surfaces import Surface, visible_surface


@dataclass(frozen=True)
class OutputSettings:
    """What the outputs take from the parameters of the same names; live."""

    publish_masks: bool = True
    overlay_opacity: float = 0.3
    score_threshold: float = 0.1


OUTPUT_SETTINGS = tuple(field.name for field in fields(OutputSettings))


@dataclass(frozen=True)
class Placed:
    """The instances' surfaces in the frame that the 3D outputs are published in."""

    header: Header  # that frame, with the image's stamp
    surfaces: Mapping[int, Surface]  # by track id; only those that were measured
    up: tuple[float, float, float]


@dataclass(frozen=True)
class Result:
    """One frame with its answer, and what several outputs work out of them: once, and only if one of them asks."""

    frame: CameraFrame
    answer: TrackedFrame
    settings: OutputSettings
    target: TargetFrame | None = None  # of the 3D outputs; None for the camera's own

    @cached_property
    def surfaces(self) -> dict[int, Surface]:
        """By track id, in the frame of the image's header: those instances that depth shows. Empty without depth."""
        if self.frame.depth is None:
            return {}
        found = {i.track_id: visible_surface(i.rle, self.frame.depth) for i in self.answer.instances if i.box[2]}
        return {track_id: surface for track_id, surface in found.items() if surface is not None}

    @cached_property
    def placed(self) -> Placed | None:
        """:attr:`surfaces` in the target frame; None without depth, and where the camera's pose is not known."""
        header = self.frame.header
        if self.frame.depth is None:
            return None
        if self.target is None:
            return Placed(header, self.surfaces, OPTICAL_UP)
        pose = self.target.pose(header)
        if pose is None:
            return None
        moved = {track_id: surface.moved(*pose) for track_id, surface in self.surfaces.items()}
        return Placed(Header(stamp=header.stamp, frame_id=self.target.name), moved, BODY_UP)


class Output(Protocol):
    """One output of one camera. All but the making and :meth:`close` happens in the results thread."""

    name: str  # for logs and timings

    def wanted(self) -> bool:
        """Whether anybody listens."""

    def publish(self, result: Result) -> None:
        """Sends out what the engine answered to a frame."""

    def close(self) -> None:
        """Ends the topic."""


class Topic:
    """Base of the outputs that are one topic: ``~/NAME``, or ``~/CAMERA/NAME`` where cameras are named."""

    def __init__(self, node: LifecycleNode, camera: str, name: str, message_type: Any, profile: QoSProfile) -> None:
        self.name = name
        self._node = node
        topic = f"~/{camera}/{name}" if camera else f"~/{name}"
        # A copy: rclpy writes the user's overrides into the profile that it is given.
        with qos.named_overrides(topic):
            self._publisher = node.create_lifecycle_publisher(
                message_type, topic, copy(profile), qos_overriding_options=qos.overridable()
            )

    def wanted(self) -> bool:
        return bool(self._publisher.get_subscription_count())

    def close(self) -> None:
        self._node.destroy_lifecycle_publisher(self._publisher)
