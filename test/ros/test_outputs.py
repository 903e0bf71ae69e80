"""The node's outputs over DDS, with a made-up engine and depth: places, units, frames, and no work for nobody."""

from __future__ import annotations

import array
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from ros_fakes import Loader
from ros_world import World, wait_for
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from instformer_ros.msg import InstanceArray
from instformer_ros.nodes import outputs
from instformer_ros.nodes.openvis_node import OpenVisNode
from instformer_ros.ros import detections, transforms
from instformer_ros.ros.images import to_message
from instformer_ros.ros.qos import LATCHED, OVERLAY, RESULTS

HEIGHT, WIDTH = 24, 32
# The made-up engine's two things are the left and the right half of the upper half: 1 m and 2 m away.
METRES = np.where(np.arange(WIDTH) < WIDTH // 2, 1.0, 2.0).astype(np.float32) * np.ones((HEIGHT, 1), np.float32)
METRES[[3, 8, 4, 7], [5, 10, 20, 27]] = 0.0  # not measured
CENTRES = [[-0.4, -0.3, 1.0], [0.8, -0.6, 2.0]]


class Rig:
    """The node, an RGB-D camera and listeners."""

    def __init__(self, world: World, **parameters: Any) -> None:
        from rclpy.parameter import Parameter

        self.world = world
        overrides = [Parameter(name, value=value) for name, value in {"use_depth": True, **parameters}.items()]
        self.node = OpenVisNode(Loader(), parameter_overrides=overrides, **world.node_arguments)
        self.node.start()
        world.spin(self.node)
        make = world.probe.create_publisher
        self.image = make(Image, f"{world.namespace}/image", OVERLAY)
        self.depth = make(Image, f"{world.namespace}/depth", OVERLAY)
        self.info = make(CameraInfo, f"{world.namespace}/camera_info", OVERLAY)
        self._stamp = 0

    def wait_for_camera(self) -> None:
        for publisher in (self.image, self.depth, self.info):
            wait_for(publisher.get_subscription_count, what=publisher.topic_name)

    def hear(self, kind: Any, topic: str, profile: Any = RESULTS) -> list[Any]:
        heard: list[Any] = []
        name = f"{self.world.namespace}/openvis/{topic}"
        self.world.probe.create_subscription(kind, name, heard.append, profile)
        wait_for(lambda: self.node.count_subscribers(name), what=name)
        wait_for(lambda: self.world.probe.count_publishers(name), what=name)
        time.sleep(0.1)
        return heard

    def see(self, encoding: str = "32FC1") -> Header:
        """Sends image, calibration and depth of one moment, and returns their header."""
        self._stamp += 1
        header = Header(frame_id="eye_optical")
        header.stamp.sec = self._stamp
        info = CameraInfo(header=header, height=HEIGHT, width=WIDTH, distortion_model="plumb_bob")
        info.k = [20.0, 0.0, 15.5, 0.0, 20.0, 11.5, 0.0, 0.0, 1.0]
        self.info.publish(info)
        time.sleep(0.05)
        values = METRES if encoding == "32FC1" else np.round(METRES * 1000).astype(np.uint16)
        depth = Image(header=header, height=HEIGHT, width=WIDTH, encoding=encoding, step=values.strides[0])
        depth.data = array.array("B", values.tobytes())
        self.depth.publish(depth)
        self.image.publish(to_message(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), header))
        return header


@pytest.fixture
def start(world: World) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(**parameters: Any) -> Rig:
        rigs.append(Rig(world, **parameters))
        return rigs[-1]

    yield make
    for rig in rigs:
        assert rig.node.close()


def _places(message: InstanceArray) -> list[list[float]]:
    assert all(instance.has_position for instance in message.instances)
    return [[i.position.x, i.position.y, i.position.z] for i in message.instances]


def test_places_and_views_of_one_moment(start: Callable[..., Rig]) -> None:
    rig = start(vocabulary=["mug", "drill"])
    rig.wait_for_camera()
    answers, clouds = rig.hear(InstanceArray, "instances"), rig.hear(PointCloud2, "points", OVERLAY)
    markers, calibrations = rig.hear(MarkerArray, "markers"), rig.hear(CameraInfo, "camera_info", OVERLAY)
    labels = rig.hear(Image, "label_image", OVERLAY)
    headers = [rig.see("32FC1")]
    wait_for(lambda: answers, what="the answer")
    headers.append(rig.see("16UC1"))
    wait_for(lambda: {len(h) for h in (answers, clouds, markers, calibrations, labels)} == {2}, what="two of each")
    for message, header in zip(answers, headers, strict=True):
        assert message.header == header
        np.testing.assert_allclose(_places(message), CENTRES, atol=1e-6)
    assert answers[0].instances[0].depth_coverage == pytest.approx(190 / 192)
    np.testing.assert_array_equal(clouds[0].data, clouds[1].data)  # both encodings
    assert clouds[0].width == 2 * 190
    assert [m.header.frame_id for m in markers[0].markers] == ["eye_optical"] * 4
    assert calibrations[0].header == headers[0] and list(calibrations[0].k)[:3] == [20.0, 0.0, 15.5]
    assert calibrations[0].distortion_model == "plumb_bob"
    assert set(np.frombuffer(labels[0].data, np.uint16)) == {0, 1, 2}


def test_nobody_listens_so_nothing_is_made(start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for name in ("point_cloud", "label_message", "overlay", "instance_array"):
        original = getattr(outputs, name)
        monkeypatch.setattr(outputs, name, lambda *a, _n=name, _o=original, **k: made.append(_n) or _o(*a, **k))
    rig = start()
    rig.wait_for_camera()
    answers = rig.hear(InstanceArray, "instances")
    rig.see()
    wait_for(lambda: answers, what="the answer")
    clouds = rig.hear(PointCloud2, "points", OVERLAY)
    rig.see()
    wait_for(lambda: clouds, what="the points")
    assert made == ["instance_array", "instance_array", "point_cloud"]


def test_an_output_that_fails_leaves_the_others_alone(
    start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "label_message", lambda *_: 1 / 0)
    rig = start()
    rig.wait_for_camera()
    labels, pictures = rig.hear(Image, "label_image", OVERLAY), rig.hear(Image, "overlay", OVERLAY)
    rig.see()
    wait_for(lambda: pictures, what="the overlay, which comes after the label image")
    assert not labels


def test_without_depth_there_are_no_topics_for_it(start: Callable[..., Rig]) -> None:
    rig = start(use_depth=False)
    topics = {name for name, _ in rig.node.get_publisher_names_and_types_by_node("openvis", rig.world.namespace)}
    names = {name.rsplit("/", 1)[1] for name in topics}
    assert {"instances", "overlay", "label_image", "camera_info"} <= names
    assert not {"markers", "points", "detections_3d"} & names


@pytest.mark.skipif(not detections.AVAILABLE, reason="vision_msgs is not installed")
def test_vision_msgs_and_the_words_behind_their_numbers(start: Callable[..., Rig]) -> None:
    rig = start(vocabulary=["mug", "drill"])
    rig.wait_for_camera()
    flat = rig.hear(detections.Detection2DArray, "detections")
    solid = rig.hear(detections.Detection3DArray, "detections_3d")
    rig.see()
    wait_for(lambda: flat and solid, what="detections")
    infos = rig.hear(detections.LabelInfo, "label_info", LATCHED)  # late, and told all the same
    wait_for(lambda: infos, what="label_info")
    assert [c.class_name for c in infos[0].class_map] == ["mug", "drill"]
    assert [d.id for d in flat[0].detections] == [d.id for d in solid[0].detections] == ["1", "2"]
    centre = solid[0].detections[1].bbox.center.position
    np.testing.assert_allclose([centre.x, centre.y, centre.z], CENTRES[1], atol=0.05)


@pytest.mark.skipif(transforms.tf2_ros is None, reason="tf2_ros is not installed")
def test_a_target_frame(start: Callable[..., Rig]) -> None:
    """The camera looks along the robot's x axis, one metre up; until that is known, nothing wrong is said."""
    from geometry_msgs.msg import TransformStamped
    from tf2_ros import StaticTransformBroadcaster

    rig = start(target_frame="base_link")
    rig.wait_for_camera()
    answers, clouds = rig.hear(InstanceArray, "instances"), rig.hear(PointCloud2, "points", OVERLAY)
    markers = rig.hear(MarkerArray, "markers")
    rig.see()
    wait_for(lambda: answers, what="the answer")
    time.sleep(0.3)  # the node waits a moment for the transform
    assert not clouds and not markers
    pose = TransformStamped()
    pose.header.frame_id, pose.child_frame_id = "base_link", "eye_optical"
    pose.transform.translation.z = 1.0
    turn = pose.transform.rotation
    turn.x, turn.y, turn.z, turn.w = -0.5, 0.5, -0.5, 0.5
    broadcaster = StaticTransformBroadcaster(rig.world.probe)
    broadcaster.sendTransform(pose)
    time.sleep(0.5)
    rig.see()
    wait_for(lambda: clouds and markers and len(answers) == 2, what="points and markers")
    assert clouds[0].header.frame_id == "base_link" and clouds[0].header.stamp == answers[1].header.stamp
    box = next(m for m in markers[0].markers if m.ns == "boxes" and m.id == 1)
    x, y, z = CENTRES[0]
    place = [box.pose.position.x, box.pose.position.y, box.pose.position.z]
    np.testing.assert_allclose(place, [z, -x, 1.0 - y], atol=0.02)
    np.testing.assert_allclose(_places(answers[1]), CENTRES, atol=1e-6)  # in the image's own frame, as its header says


def test_a_target_frame_without_tf2(start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "tf2_ros", None)
    rig = start(target_frame="base_link")
    assert rig.node._state_machine.current_state[1] == "unconfigured"
