"""The node's output topics: a class for each, made for every camera, at work only while somebody listens.

A new output is one class here and one line in :func:`_kinds`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from instformer_ros.draw import overlay
from instformer_ros.msg import InstanceArray
from instformer_ros.nodes.output import Output, Result, Topic
from instformer_ros.ros import detections, images, qos
from instformer_ros.ros.labels import label_message
from instformer_ros.ros.markers import TrackMarkers
from instformer_ros.ros.messages import instance_array
from instformer_ros.ros.points import point_cloud


class InstancesOutput(Topic):
    """``~/instances``: the tracked instances of every image, also when there are none; with depth, where they are."""

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        super().__init__(node, camera, "instances", InstanceArray, qos.RESULTS)

    def publish(self, result: Result) -> None:
        message = instance_array(result.answer, result.frame.header, result.settings.publish_masks, result.surfaces)
        self._publisher.publish(message)


class OverlayOutput(Topic):
    """``~/overlay``: the picture with masks, names and ids drawn in."""

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        super().__init__(node, camera, "overlay", Image, qos.OVERLAY)

    def publish(self, result: Result) -> None:
        picture = overlay(result.frame.image, result.answer, result.settings.overlay_opacity)
        self._publisher.publish(images.to_message(picture, result.frame.header))


class CameraInfoOutput(Topic):
    """``~/camera_info``: the calibration of the overlay and the label image, beside them as RViz looks for it."""

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        super().__init__(node, camera, "camera_info", CameraInfo, qos.OVERLAY)

    def publish(self, result: Result) -> None:
        info = result.frame.camera_info
        if info is not None:
            same = {name: getattr(info, name) for name in info.get_fields_and_field_types() if name != "header"}
            self._publisher.publish(CameraInfo(header=result.frame.header, **same))


class LabelImageOutput(Topic):
    """``~/label_image``: mono16, each pixel the ``label_value`` of its instance."""

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        super().__init__(node, camera, "label_image", Image, qos.OVERLAY)

    def publish(self, result: Result) -> None:
        self._publisher.publish(label_message(result.answer, result.frame.header))


class MarkersOutput(Topic):
    """``~/markers``: a box and a label for every instance, in the overlay's colours. With depth only."""

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        super().__init__(node, camera, "markers", MarkerArray, qos.RESULTS)
        self._markers = TrackMarkers()

    def publish(self, result: Result) -> None:
        placed = result.placed
        if placed is not None:
            self._publisher.publish(self._markers.array(result.answer, placed.surfaces, placed.header, placed.up))


class PointsOutput(Topic):
    """``~/points``: the visible points of the instances, each with its ``track_id``. With depth only."""

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        super().__init__(node, camera, "points", PointCloud2, qos.OVERLAY)

    def publish(self, result: Result) -> None:
        placed = result.placed
        if placed is not None:
            self._publisher.publish(point_cloud(placed.surfaces, result.frame.image, placed.header))


class LabelInfoOutput(Topic):
    """``~/label_info``: the words behind the ``class_id`` of the detections. Latched; sent anew when they change."""

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        super().__init__(node, camera, "label_info", detections.LabelInfo, qos.LATCHED)
        self._sent: tuple[object, ...] = ()

    def wanted(self) -> bool:
        return True  # whoever comes later gets it as well

    def publish(self, result: Result) -> None:
        now = (result.answer.vocabulary, result.settings.score_threshold)
        if now != self._sent:
            self._publisher.publish(detections.label_info(*now, result.frame.header))
            self._sent = now


class Detections2DOutput(Topic):
    """``~/detections``: the boxes of the instances in the picture, as vision_msgs."""

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        super().__init__(node, camera, "detections", detections.Detection2DArray, qos.RESULTS)

    def publish(self, result: Result) -> None:
        self._publisher.publish(detections.detections_2d(result.answer, result.frame.header))


class Detections3DOutput(Topic):
    """``~/detections_3d``: the boxes of the instances in space, as vision_msgs. With depth only."""

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        super().__init__(node, camera, "detections_3d", detections.Detection3DArray, qos.RESULTS)

    def publish(self, result: Result) -> None:
        placed = result.placed
        if placed is not None:
            self._publisher.publish(detections.detections_3d(result.answer, placed.surfaces, placed.header))


def _kinds(with_depth: bool) -> list[Callable[[LifecycleNode, str], Output]]:
    """What there is, in the order of publication: what others steer by comes first, words before what uses them."""
    kinds: list[Callable[[LifecycleNode, str], Output]] = [InstancesOutput]
    if detections.AVAILABLE:
        kinds += [LabelInfoOutput, Detections2DOutput]
    if with_depth:
        kinds += [Detections3DOutput] if detections.AVAILABLE else []
        kinds += [MarkersOutput, PointsOutput]
    return [*kinds, LabelImageOutput, CameraInfoOutput, OverlayOutput]


class CameraOutputs:
    """All outputs of one camera."""

    def __init__(self, node: LifecycleNode, camera: str, with_depth: bool) -> None:
        self._outputs = [kind(node, camera) for kind in _kinds(with_depth)]

    def publish(self, result: Result) -> dict[str, float]:
        """Publishes those that are wanted. Returns the seconds that each took.

        Raises what the first of them raised, once all had their turn.
        """
        seconds: dict[str, float] = {}
        errors: list[Exception] = []
        for output in self._outputs:
            if output.wanted():
                started = time.perf_counter()
                try:
                    output.publish(result)
                except Exception as error:
                    errors.append(error)
                seconds[output.name] = time.perf_counter() - started
        if errors:
            raise errors[0]
        return seconds

    def close(self) -> None:
        """Ends the topics."""
        for output in self._outputs:
            output.close()
