"""Our nouns as ROS messages: pure translation."""

from __future__ import annotations

import array
from collections.abc import Mapping, Sequence

import numpy as np
from rclpy.serialization import serialize_message
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header

from instformer_ros.msg import Instance as InstanceMessage
from instformer_ros.msg import InstanceArray
from instformer_ros.msg import Vocabulary as VocabularyMessage
from instformer_ros.structures import TrackedFrame, TrackedInstance, Vocabulary
from instformer_ros.surfaces import Surface


def instance_array(
    frame: TrackedFrame, header: Header, masks: bool = True, surfaces: Mapping[int, Surface] | None = None
) -> InstanceArray:
    """The answer to one image.

    Args:
        frame: What the engine answered.
        header: The image's own.
        masks: False leaves the masks out.
        surfaces: By track id, in the header's frame: gives the instances their places.
    """
    places = surfaces or {}
    return InstanceArray(
        header=header,
        height=frame.height,
        width=frame.width,
        vocabulary_version=frame.vocabulary.version,
        frame_index=frame.frame_index,
        instances=[_instance(instance, masks, places.get(instance.track_id)) for instance in frame.instances],
    )


def serialised(frame: TrackedFrame) -> bytes:
    """The answer to an image as it goes over the wire, under an empty header."""
    return bytes(serialize_message(instance_array(frame, Header())))


def _instance(instance: TrackedInstance, masks: bool, surface: Surface | None) -> InstanceMessage:
    x, y, width, height = instance.box
    message = InstanceMessage(
        **instance.plain_fields(),
        box=RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height),
        mask_encoding=InstanceMessage.MASK_COCO_RLE if masks else InstanceMessage.MASK_NONE,
    )
    if masks:  # array.array: taken as it is; anything else would be checked value by value
        message.mask = array.array("B", instance.rle["counts"])
    if instance.class_scores is not None:
        scores = array.array("f")
        scores.frombytes(np.ascontiguousarray(instance.class_scores, dtype=np.float32).tobytes())
        message.class_scores = scores
    if surface is not None:
        low, high = surface.bounds
        message.has_position = True
        message.position.x, message.position.y, message.position.z = surface.centre.tolist()
        message.size.x, message.size.y, message.size.z = (high - low).tolist()
        message.depth_coverage = surface.coverage
    return message


def vocabulary_message(vocabulary: Vocabulary) -> VocabularyMessage:
    """The vocabulary in force, for the latched topic."""
    return VocabularyMessage(version=vocabulary.version, names=list(vocabulary.names))


def vocabulary_names(message: VocabularyMessage) -> Sequence[str]:
    """The names somebody asks for; an incoming ``version`` means nothing, the node counts by itself."""
    return tuple(message.names)
