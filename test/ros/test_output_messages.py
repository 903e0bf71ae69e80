"""Label image, point cloud, markers and vision_msgs against a frame with known masks and places."""

from __future__ import annotations

import numpy as np
import pytest
import rgbd_scene
from numpy.typing import NDArray
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from instformer_ros import masks
from instformer_ros.draw import overlay, track_colour
from instformer_ros.msg import Instance
from instformer_ros.ros import detections
from instformer_ros.ros.labels import label_message
from instformer_ros.ros.markers import BODY_UP, OPTICAL_UP, TrackMarkers
from instformer_ros.ros.messages import instance_array
from instformer_ros.ros.points import point_cloud
from instformer_ros.structures import TrackedFrame, TrackedInstance, TrackState, Vocabulary
from instformer_ros.surfaces import Depth, Surface, visible_surface

_HEADER = Header(frame_id="eye")
_IDS = {"card": 7, "turned card": 8, "ball": 300}
_ROOM = rgbd_scene.room()
_PICTURE = np.random.default_rng(0).integers(0, 255, (rgbd_scene.HEIGHT, rgbd_scene.WIDTH, 3), np.uint8)


def _instance(track_id: int, mask: NDArray[np.bool_], state: TrackState = TrackState.TRACKED) -> TrackedInstance:
    rle = masks.encode(mask)
    return TrackedInstance(track_id, state, 5, 0, track_id, 1, "drill", 0.5, 0.75, masks.box(rle), rle)


def _frame(*leave_out: str, coasting: str = "") -> TrackedFrame:
    nothing = np.zeros_like(_ROOM.things[0].mask)
    instances = [
        _instance(_IDS[t.name], nothing, TrackState.COASTING) if t.name == coasting else _instance(_IDS[t.name], t.mask)
        for t in _ROOM.things
        if t.name not in leave_out
    ]
    return TrackedFrame(rgbd_scene.HEIGHT, rgbd_scene.WIDTH, Vocabulary(3, ("mug", "drill")), 4, instances)


def _surfaces(frame: TrackedFrame) -> dict[int, Surface]:
    depth = Depth(_ROOM.depth.astype(np.float32), rgbd_scene.FX, rgbd_scene.FY, rgbd_scene.CX, rgbd_scene.CY)
    found = {i.track_id: visible_surface(i.rle, depth) for i in frame.instances}
    return {track_id: surface for track_id, surface in found.items() if surface is not None}


def test_label_image() -> None:
    frame = _frame(coasting="ball")
    message = label_message(frame, _HEADER)
    assert message.encoding == "mono16" and message.header.frame_id == "eye"
    assert (message.height, message.width, message.step) == (480, 640, 1280)
    labels = np.frombuffer(message.data, np.uint16).reshape(480, 640)
    assert set(np.unique(labels)) == {0, 7, 8}
    for thing in _ROOM.things[:2]:
        np.testing.assert_array_equal(labels == _IDS[thing.name], thing.mask)


def test_instances_have_places() -> None:
    frame = _frame(coasting="ball")
    card, turned, ball = instance_array(frame, _HEADER, surfaces=_surfaces(frame)).instances
    assert isinstance(card, Instance) and card.has_position and turned.has_position
    np.testing.assert_allclose([card.position.x, card.position.y, card.position.z], [0.35, -0.2, 1.2], atol=0.003)
    np.testing.assert_allclose([card.size.x, card.size.y, card.size.z], [0.3, 0.2, 0.0], atol=0.004)
    assert card.depth_coverage == 1.0
    assert not ball.has_position and ball.position.z == ball.depth_coverage == 0.0


def test_point_cloud() -> None:
    frame = _frame()
    message = point_cloud(_surfaces(frame), _PICTURE, _HEADER)
    kinds = {1: "i1", 6: "u4", 7: "f4"}
    layout = np.dtype(
        {
            "names": [field.name for field in message.fields],
            "formats": [kinds[field.datatype] for field in message.fields],
            "offsets": [field.offset for field in message.fields],
            "itemsize": message.point_step,
        }
    )
    points = np.frombuffer(message.data, layout)
    assert message.height == 1 and message.width == len(points) and message.row_step == len(message.data)
    for thing in _ROOM.things:
        own = points[points["track_id"] == _IDS[thing.name]]
        assert 0.9 * thing.mask.sum() < len(own) <= thing.mask.sum()
        np.testing.assert_allclose([np.median(own[axis]) for axis in "xyz"], thing.centre, atol=0.003)
        columns = np.rint(rgbd_scene.FX * own["x"] / own["z"] + rgbd_scene.CX).astype(int)
        rows = np.rint(rgbd_scene.FY * own["y"] / own["z"] + rgbd_scene.CY).astype(int)
        bits = np.ascontiguousarray(own["rgb"]).view(np.uint32)
        colours = np.stack([bits >> 16, bits >> 8 & 255, bits & 255], axis=1)
        np.testing.assert_array_equal(colours, _PICTURE[rows, columns])
    assert point_cloud({}, _PICTURE, _HEADER).width == 0


def test_markers_are_boxes_with_labels_above() -> None:
    frame = _frame("turned card", "ball")
    for up, above in ((OPTICAL_UP, -1.0), (BODY_UP, 1.0)):
        box, label = TrackMarkers().array(frame, _surfaces(frame), _HEADER, up).markers
        assert (box.ns, box.id, box.type, label.ns, label.id) == ("boxes", 7, Marker.CUBE, "labels", 7)
        assert label.type == Marker.TEXT_VIEW_FACING and label.text == "drill #7 0.50"
        np.testing.assert_allclose([box.scale.x, box.scale.y, box.scale.z], [0.3, 0.2, 0.01], atol=0.004)
        centre, over = box.pose.position, label.pose.position
        np.testing.assert_allclose([centre.x, centre.y, centre.z], [0.35, -0.2, 1.2], atol=0.003)
        assert np.sign(over.y - centre.y if up is OPTICAL_UP else over.z - centre.z) == above
        assert box.lifetime.sec > 0


def test_a_track_has_one_colour_in_overlay_and_markers_for_its_life() -> None:
    markers = TrackMarkers()
    painted, boxed = set(), set()
    for image in (np.zeros_like(_PICTURE), _PICTURE, np.full_like(_PICTURE, 200)):
        frame = _frame()
        picture = overlay(image, frame, opacity=1.0)
        ball = _ROOM.things[2].mask
        rows, columns = np.nonzero(ball)
        painted.add(tuple(picture[int(np.median(rows)), int(np.median(columns))].tolist()))
        for marker in markers.array(frame, _surfaces(frame), _HEADER).markers:
            if marker.id == _IDS["ball"]:
                boxed.add(tuple(round(255 * c) for c in (marker.color.r, marker.color.g, marker.color.b)))
    assert painted == boxed == {track_colour(_IDS["ball"])}
    assert len({track_colour(track_id) for track_id in _IDS.values()}) == 3


def test_markers_of_a_track_that_is_gone_are_deleted_once() -> None:
    markers = TrackMarkers()

    def actions(frame: TrackedFrame) -> dict[int, set[int]]:
        found: dict[int, set[int]] = {}
        for marker in markers.array(frame, _surfaces(frame), _HEADER).markers:
            found.setdefault(marker.id, set()).add(marker.action)
        return found

    assert actions(_frame()) == {7: {Marker.ADD}, 8: {Marker.ADD}, 300: {Marker.ADD}}
    assert 300 not in actions(_frame(coasting="ball"))  # unseen: it stays as it was
    assert actions(_frame("ball"))[300] == {Marker.DELETE}
    assert 300 not in actions(_frame("ball"))
    ended = _frame("card")
    ended.instances[0].state = TrackState.TERMINATED
    assert actions(ended)[8] == {Marker.DELETE}


@pytest.mark.skipif(not detections.AVAILABLE, reason="vision_msgs is not installed")
def test_vision_msgs() -> None:
    frame = _frame(coasting="ball")
    flat = detections.detections_2d(frame, _HEADER)
    assert [d.id for d in flat.detections] == ["7", "8"] and flat.header.frame_id == "eye"
    x, y, width, height = frame.instances[0].box
    box = flat.detections[0].bbox
    assert (box.size_x, box.size_y) == (width, height)
    assert (box.center.position.x, box.center.position.y) == (x + width / 2, y + height / 2)
    hypothesis = flat.detections[0].results[0].hypothesis
    info = detections.label_info(frame.vocabulary, 0.25, _HEADER)
    names = {str(c.class_id): c.class_name for c in info.class_map}
    assert names == {"0": "mug", "1": "drill"} and info.threshold == 0.25
    assert names[hypothesis.class_id] == "drill" and hypothesis.score == 0.5
    solid = detections.detections_3d(frame, _surfaces(frame), _HEADER)
    assert [d.id for d in solid.detections] == ["7", "8"]
    place, size = solid.detections[0].results[0].pose.pose.position, solid.detections[0].bbox.size
    np.testing.assert_allclose([place.x, place.y, place.z], [0.35, -0.2, 1.2], atol=0.003)
    np.testing.assert_allclose([size.x, size.y, size.z], [0.3, 0.2, 0.0], atol=0.004)
    frame.instances[0].class_index = -1
    assert detections.detections_2d(frame, _HEADER).detections[0].results[0].hypothesis.class_id == "65535"
