"""The instances as vision_msgs, where that package is installed: ``AVAILABLE`` says whether it is."""

from __future__ import annotations

from collections.abc import Mapping

from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import Header

from instformer_ros.structures import TrackedFrame, TrackedInstance, Vocabulary
from instformer_ros.surfaces import Surface

try:
    from vision_msgs.msg import (
        Detection2D,
        Detection2DArray,
        Detection3D,
        Detection3DArray,
        LabelInfo,
        ObjectHypothesisWithPose,
        VisionClass,
    )
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True

_UNLABELLED = 65535  # LabelInfo's word for an instance without a class


def detections_2d(frame: TrackedFrame, header: Header) -> Detection2DArray:
    """The boxes of the instances that are seen, in pixels.

    ``id`` is the track's id; ``class_id`` is the position of the word in the vocabulary (see :func:`label_info`).
    """
    message = Detection2DArray(header=header)
    for instance in frame.instances:
        x, y, width, height = instance.box
        if not width:
            continue
        detection = Detection2D(header=header, id=str(instance.track_id), results=[_hypothesis(instance)])
        detection.bbox.center.position.x = x + width / 2.0
        detection.bbox.center.position.y = y + height / 2.0
        detection.bbox.size_x, detection.bbox.size_y = float(width), float(height)
        message.detections.append(detection)
    return message


def detections_3d(frame: TrackedFrame, surfaces: Mapping[int, Surface], header: Header) -> Detection3DArray:
    """The boxes, along the axes of the header's frame, of the instances that have a surface; metres.

    The hypothesis' pose is the centre of the visible surface, which need not be the middle of the box.
    """
    message = Detection3DArray(header=header)
    for instance in frame.instances:
        surface = surfaces.get(instance.track_id)
        if surface is None:
            continue
        low, high = surface.bounds
        detection = Detection3D(header=header, id=str(instance.track_id), results=[_hypothesis(instance)])
        detection.results[0].pose.pose.position = _point(surface.centre.tolist())
        detection.bbox.center.position = _point(((low + high) / 2).tolist())
        width, height, depth = (high - low).tolist()
        detection.bbox.size = Vector3(x=width, y=height, z=depth)
        message.detections.append(detection)
    return message


def label_info(vocabulary: Vocabulary, threshold: float, header: Header) -> LabelInfo:
    """Which ``class_id`` is which word. ``threshold``: least score of a detection."""
    classes = [VisionClass(class_id=index, class_name=name) for index, name in enumerate(vocabulary.names)]
    return LabelInfo(header=header, class_map=classes, threshold=threshold)


def _hypothesis(instance: TrackedInstance) -> ObjectHypothesisWithPose:
    result = ObjectHypothesisWithPose()
    result.hypothesis.class_id = str(instance.class_index if instance.class_index >= 0 else _UNLABELLED)
    result.hypothesis.score = float(instance.score)
    return result


def _point(values: list[float]) -> Point:
    x, y, z = values
    return Point(x=x, y=y, z=z)
