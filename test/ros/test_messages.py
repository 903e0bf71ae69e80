"""Tracked frames as messages."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco
from std_msgs.msg import Header

from instformer_ros import masks
from instformer_ros.msg import Instance, InstanceArray
from instformer_ros.msg import Vocabulary as VocabularyMessage
from instformer_ros.ros.messages import instance_array, vocabulary_message, vocabulary_names
from instformer_ros.structures import TrackedFrame, TrackedInstance, TrackState, Vocabulary


def _frame() -> tuple[TrackedFrame, np.ndarray]:
    shape = np.zeros((20, 30), dtype=bool)
    shape[3:9, 4:11] = True
    shape[5:7, 6:8] = False  # a hole
    scores = np.array([0.25, 0.5], np.float64)
    seen = TrackedInstance(7, TrackState.NEW, 1, 0, 7, 1, "drill", 0.45, 0.9, (4, 3, 7, 6), masks.encode(shape), scores)
    gone = TrackedInstance(3, TrackState.COASTING, 12, 4, 3, -1, "", 0.5, 0.5, (0, 0, 0, 0), masks.empty(20, 30), None)
    return TrackedFrame(20, 30, Vocabulary(5, ("mug", "drill")), 11, [gone, seen]), shape


def test_every_field() -> None:
    frame, shape = _frame()
    header = Header(frame_id="eye")
    message = instance_array(frame, header)
    assert isinstance(message, InstanceArray) and message.header is header
    assert (message.height, message.width, message.vocabulary_version, message.frame_index) == (20, 30, 5, 11)
    gone, seen = message.instances
    assert (seen.track_id, seen.state, seen.age, seen.frames_since_seen) == (7, Instance.STATE_NEW, 1, 0)
    assert (seen.label_value, seen.class_index, seen.class_name) == (7, 1, "drill")
    assert np.isclose(seen.score, 0.45) and np.isclose(seen.objectness, 0.9)
    assert list(seen.class_scores) == [0.25, 0.5]
    box = seen.box
    assert (box.x_offset, box.y_offset, box.width, box.height) == (4, 3, 7, 6)
    assert seen.mask_encoding == Instance.MASK_COCO_RLE and not seen.has_position
    np.testing.assert_array_equal(coco.decode({"size": [20, 30], "counts": bytes(seen.mask)}).astype(bool), shape)
    assert gone.state == Instance.STATE_COASTING and gone.class_index == Instance.CLASS_AGNOSTIC
    assert not coco.decode({"size": [20, 30], "counts": bytes(gone.mask)}).any()
    assert (gone.frames_since_seen, gone.box.width, len(gone.class_scores)) == (4, 0, 0)


def test_without_masks() -> None:
    for instance in instance_array(_frame()[0], Header(), masks=False).instances:
        assert instance.mask_encoding == Instance.MASK_NONE and len(instance.mask) == 0


def test_states_have_one_meaning() -> None:
    for state in TrackState:
        assert getattr(Instance, f"STATE_{state.name}") == state


def test_vocabulary() -> None:
    message = vocabulary_message(Vocabulary(3, ("mug", "茶碗")))
    assert message.version == 3 and list(message.names) == ["mug", "茶碗"]
    assert list(vocabulary_names(VocabularyMessage(version=9, names=["a", "a"]))) == ["a", "a"]
