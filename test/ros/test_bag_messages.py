"""What the bag writer makes without ROS is, to ROS, the very message that the node publishes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install 'instformer_ros[bags]'")
pytest.importorskip("mcap", reason="mcap is not installed: pip install 'instformer_ros[bags]'")

from mcap.reader import make_reader

import instformer_ros.msg
from instformer_ros import masks
from instformer_ros.bag_writer import BagWriter
from instformer_ros.data.source import FrameHeader
from instformer_ros.msg import InstanceArray
from instformer_ros.msg import Vocabulary as VocabularyMessage
from instformer_ros.ros.messages import instance_array, vocabulary_message
from instformer_ros.structures import TrackedFrame, TrackedInstance, TrackState, Vocabulary


def _instance(track_id: int, state: TrackState, mask: np.ndarray, scores: np.ndarray | None) -> TrackedInstance:
    rle = masks.encode(mask)
    return TrackedInstance(
        track_id, state, 4, 2, track_id % 9, 0, "tea cup ☕", 0.1, 0.7, masks.box(rle), rle, class_scores=scores
    )


def test_the_bag_holds_what_the_node_publishes(tmp_path: Path) -> None:
    seen = np.zeros((30, 40), np.bool_)
    seen[3:20, 5:9] = True
    frame = TrackedFrame(
        30,
        40,
        Vocabulary(3, ("tea cup ☕", "saucer")),
        11,
        [
            _instance(2**32 - 1, TrackState.TRACKED, seen, np.array([0.1, 0.3], np.float32)),
            _instance(5, TrackState.COASTING, np.zeros_like(seen), None),
        ],
    )
    drawn = np.full((30, 40, 3), (250, 120, 10), np.uint8)
    path = tmp_path / "out.mcap"
    with BagWriter(path) as bag:
        bag.add(FrameHeader(17, 23, "eye", 99), frame, drawn)
    with path.open("rb") as file:
        found = {channel.topic: (schema, channel, m.data) for schema, channel, m in make_reader(file).iter_messages()}
    header = Header(frame_id="eye")
    header.stamp.sec, header.stamp.nanosec = 17, 23
    sent = serialize_message(instance_array(frame, header))
    expected = deserialize_message(sent, InstanceArray)  # scores rounded to float32
    assert deserialize_message(found["/openvis/instances"][2], InstanceArray) == expected
    words = deserialize_message(found["/openvis/vocabulary"][2], VocabularyMessage)
    assert words == vocabulary_message(frame.vocabulary)
    overlay = deserialize_message(found["/openvis/overlay/compressed"][2], CompressedImage)
    assert overlay.header == header and overlay.format == "jpeg"
    picture = cv2.imdecode(np.frombuffer(overlay.data, np.uint8), cv2.IMREAD_COLOR)
    assert np.all(np.abs(picture[..., ::-1].astype(int) - drawn) <= 3)


def test_the_types_of_the_bag_are_those_of_ros(tmp_path: Path) -> None:
    """By their hashes, which ``ros2 bag play`` and the middleware compare."""
    shares = [parent / "share" / "instformer_ros" / "msg" for parent in Path(instformer_ros.msg.__file__).parents]
    share = next(folder for folder in shares if folder.is_dir())
    path = tmp_path / "out.mcap"
    with BagWriter(path):
        pass
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    channels = {summary.schemas[c.schema_id].name: c.metadata["topic_type_hash"] for c in summary.channels.values()}
    for name in ("InstanceArray", "Vocabulary"):
        hashes = json.loads((share / f"{name}.json").read_text())["type_hashes"]
        kind = f"instformer_ros/msg/{name}"
        assert channels[kind] == next(h["hash_string"] for h in hashes if h["type_name"] == kind)
