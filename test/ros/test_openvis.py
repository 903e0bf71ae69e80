"""The openvis node with a made-up engine: frames, life cycle and bad input."""

from __future__ import annotations

import array
import math
import time
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from ros_fakes import FakeEngine, Loader
from ros_rig import Start
from ros_world import World, wait_for
from sensor_msgs.msg import Image

from instformer_ros.msg import InstanceArray, Vocabulary
from instformer_ros.nodes import openvis_node
from instformer_ros.nodes.words import WordsTopic
from instformer_ros.ros.images import from_message
from instformer_ros.ros.qos import LATCHED, RESULTS
from instformer_ros.srv import GetStatus
from instformer_ros.structures import InstformerError

# --- Frames -----------------------------------------------------------------------------------------------------------


def test_the_header_is_copied_and_the_answer_complete(start: Start) -> None:
    rig = start(vocabulary=["mug", "drill"])
    message = rig.image()
    answer = rig.answer(message)
    assert answer.header == message.header and answer.header.frame_id == "left_eye"
    assert (answer.height, answer.width, answer.vocabulary_version, answer.frame_index) == (24, 32, 1, 0)
    first, second = rig.answer().instances[:1] + rig.answer().instances[:1]
    assert first.track_id == second.track_id == 2  # thing 1 scores 0.25, below the threshold
    assert (first.class_index, first.class_name) == (0, "mug")
    assert first.box.width == 16 and first.box.x_offset == 16 and first.box.height == 12
    assert first.mask_encoding == "coco_rle"
    from pycocotools import mask as coco

    mask = coco.decode({"size": [24, 32], "counts": bytes(first.mask)})
    assert mask.sum() == 16 * 12 and mask[0, 31] and not mask[0, 0]


def test_the_newest_frame_wins_and_drops_are_reported(start: Start) -> None:
    rig = start(Loader(engine_arguments={"step_time": 0.1}), report_interval=0.5)
    sent = [rig.image() for _ in range(30)]
    for message in sent:
        rig.camera.publish(message)
        time.sleep(0.01)
    wait_for(lambda: rig.answers and rig.answers[-1].header == sent[-1].header, what="the newest frame's answer")
    assert len(rig.answers) < 15
    counts = rig.node._pipeline.counts()[""]
    assert counts.received == 30
    assert counts.answered + counts.dropped == 30 and counts.answered == len(rig.answers)
    wait_for(lambda: rig.said("dropped"), what="a report")


def test_a_silent_camera_is_named_once(start: Start) -> None:
    rig = start(report_interval=0.1)
    wait_for(lambda: rig.said("no image on"), what="a warning")
    time.sleep(0.5)
    assert len(rig.said("no image on")) == 1
    assert rig.camera.topic_name in rig.said("no image on")[0]


def test_several_cameras_share_a_pass(start: Start, world: World) -> None:
    rig = start(Loader(engine_arguments={"step_time": 0.02}), cameras=["front", "arm/left"], autostart=False)
    assert rig.transit(Transition.TRANSITION_CONFIGURE) and rig.transit(Transition.TRANSITION_ACTIVATE)
    front, left = rig.make_camera("front/image"), rig.make_camera("arm/left/image")
    heard: dict[str, list[InstanceArray]] = {"front": [], "arm/left": []}
    for name, answers in heard.items():
        topic = f"{world.namespace}/openvis/{name}/instances"
        world.probe.create_subscription(InstanceArray, topic, answers.append, RESULTS)
    for camera in (front, left):
        wait_for(camera.get_subscription_count)
    deadline = time.monotonic() + 20
    while not (all(heard.values()) and any(len(s) == 2 for s in rig.loader.engine.steps)):
        assert time.monotonic() < deadline, (heard, rig.loader.engine.steps)
        front.publish(rig.image())
        left.publish(rig.image())
        time.sleep(0.03)
    assert not rig.answers  # nothing on ~/instances


def test_the_overlay_is_made_for_listeners_only(start: Start, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from instformer_ros.nodes import outputs

    drawn: list[float] = []
    draw = outputs.overlay
    monkeypatch.setattr(outputs, "overlay", lambda i, f, o: drawn.append(o) or draw(i, f, o))
    rig = start()
    rig.answer()
    rig.answer()
    assert not drawn
    pictures: list[Image] = []
    topic = f"{world.namespace}/openvis/overlay"
    subscription = world.probe.create_subscription(Image, topic, pictures.append, RESULTS)
    wait_for(lambda: rig.node.count_subscribers(topic))
    assert rig.set("overlay_opacity", 0.75).successful
    time.sleep(0.2)
    message = rig.image()
    rig.answer(message)
    wait_for(lambda: pictures, what="an overlay")
    assert pictures[0].header == message.header and drawn == [0.75]
    assert from_message(pictures[0]).shape == (24, 32, 3) and from_message(pictures[0]).std() > 0
    world.probe.destroy_subscription(subscription)
    wait_for(lambda: not rig.node.count_subscribers(topic))
    time.sleep(0.2)
    rig.answer()
    assert len(drawn) == 1


def test_masks_can_be_left_out(start: Start) -> None:
    rig = start(publish_masks=False)
    instance = rig.answer().instances[0]
    assert instance.mask_encoding == "" and len(instance.mask) == 0 and instance.box.width == 16
    assert rig.set("publish_masks", True).successful
    assert len(rig.answer().instances[0].mask) > 0


# --- Life -------------------------------------------------------------------------------------------------------------


def test_the_managed_life(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[bool] = []
    monkeypatch.setattr(openvis_node, "give_back_freed_memory", lambda collect=True: given_back.append(collect))
    rig = start(autostart=False)
    assert rig.state == "unconfigured" and not rig.loader.engines
    assert rig.set("score_threshold", 0.2).successful and rig.set("model", "other").successful
    assert rig.transit(Transition.TRANSITION_CONFIGURE)
    engine = rig.loader.engine
    assert engine.warm and engine.settings.score_threshold == 0.2
    assert not rig.camera.get_subscription_count()
    assert rig.transit(Transition.TRANSITION_ACTIVATE)
    wait_for(rig.camera.get_subscription_count)
    wait_for(lambda: rig.world.probe.count_publishers(f"{rig.world.namespace}/openvis/instances"))
    time.sleep(0.2)
    assert rig.answer().frame_index == 0
    assert rig.transit(Transition.TRANSITION_DEACTIVATE)
    wait_for(lambda: not rig.camera.get_subscription_count())
    assert not engine.closed
    assert given_back == [False]
    assert rig.transit(Transition.TRANSITION_CLEANUP) and engine.closed and given_back == [False, True]
    assert rig.transit(Transition.TRANSITION_CONFIGURE) and rig.loader.engine is not engine
    assert rig.loader.engine.session is engine.session  # so that IDs go on, as versions do
    wait_for(lambda: rig.vocabularies[1:], what="~/vocabulary again")
    assert [vocabulary.version for vocabulary in rig.vocabularies] == [1, 2]
    assert rig.transit(Transition.TRANSITION_INACTIVE_SHUTDOWN) and rig.loader.engine.closed
    assert rig.state == "finalized"


@pytest.mark.parametrize(
    ("parameter", "value", "reason"),
    [
        ("model", "missing.pth", "model 'missing.pth' is not there: give the path of a checkpoint"),
        ("device", "cuda:9", "device 'cuda:9' does not exist: use auto or cpu"),
    ],
)
def test_a_model_or_device_that_is_not_there(start: Start, parameter: str, value: str, reason: str) -> None:
    rig = start(Loader(faults={value: reason}), start=False, **{parameter: value})
    rig.node.start()
    assert rig.state == "unconfigured"
    wait_for(lambda: rig.said(reason), what="the reason")
    assert not rig.transit(Transition.TRANSITION_CONFIGURE) and rig.state == "unconfigured"
    status = rig.world.call(GetStatus, "openvis/get_status", GetStatus.Request())
    assert (status.state, status.fault) == ("unconfigured", reason)
    assert rig.set(parameter, "auto").successful  # mended: no restart needed
    assert rig.transit(Transition.TRANSITION_CONFIGURE) and rig.transit(Transition.TRANSITION_ACTIVATE)
    wait_for(rig.camera.get_subscription_count)
    rig.answer()
    assert rig.world.call(GetStatus, "openvis/get_status", GetStatus.Request()).fault == ""


def test_time_that_jumps_back_clears_the_tracks(start: Start, world: World) -> None:
    from rosgraph_msgs.msg import Clock

    rig = start(use_sim_time=True)
    engine = rig.loader.engine
    clock = world.probe.create_publisher(Clock, "/clock", 10)
    wait_for(clock.get_subscription_count)
    message = Clock()
    for seconds in (100, 101):
        message.clock.sec = seconds
        clock.publish(message)
        time.sleep(0.1)
    wait_for(lambda: rig.node.get_clock().now().nanoseconds >= 101_000_000_000)
    rig.answer()
    before = engine.resets
    message.clock.sec = 3
    clock.publish(message)
    wait_for(lambda: engine.resets > before, what="the reset")
    assert rig.answer().frame_index == 0


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"height": 0}, "zero size"),
        ({"width": 0}, "zero size"),
        ({"encoding": "rgb9"}, "rgb9"),
        ({"data": array.array("B", bytes(100))}, "shorter than height x step"),
        ({"step": 5}, "step is 5"),
        ({"encoding": "mono16", "is_bigendian": 1}, "big-endian"),
    ],
)
def test_a_bad_image_is_refused_and_the_next_answered(start: Start, changes: dict[str, Any], words: str) -> None:
    rig = start()
    for _ in range(5):
        message = rig.image()
        for name, value in changes.items():
            setattr(message, name, value)
        rig.camera.publish(message)
        time.sleep(0.02)
    wait_for(lambda: rig.said(words), what="the refusal")
    rig.answer()
    assert len(rig.said(words)) == 1 and rig.camera.topic_name in rig.said(words)[0]  # throttled, names the topic
    assert "\n" not in rig.said(words)[0]
    assert len(rig.answers) == 1 and rig.node._pipeline.counts()[""].refused >= 1


@pytest.mark.parametrize("fault", [InstformerError("the picture is too odd: send another"), RuntimeError("boom")])
def test_an_engine_that_fails_does_not_kill_the_node(start: Start, fault: Exception) -> None:
    rig = start()
    engine: FakeEngine = rig.loader.engine
    engine.fault = fault
    for _ in range(5):
        rig.camera.publish(rig.image())
        time.sleep(0.02)
    wait_for(lambda: rig.said(str(fault)), what="the complaint")
    assert len(rig.said(str(fault))) == 1
    assert ("Traceback" in rig.said(str(fault))[0]) == isinstance(fault, RuntimeError)
    engine.fault = None
    rig.answer()


@pytest.mark.parametrize("reliability", [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT])
def test_auto_reliability_suits_the_camera(start: Start, world: World, reliability: ReliabilityPolicy) -> None:
    rig = start()
    world.probe.destroy_publisher(rig.camera)
    rig.camera = rig.make_camera("image", reliability)
    subscription = rig.node._cameras[""].input
    wait_for(lambda: rig.camera.get_subscription_count() and subscription.reliability == reliability)
    deadline = time.monotonic() + 10
    while not rig.answers:
        assert time.monotonic() < deadline
        rig.camera.publish(rig.image())
        time.sleep(0.05)


def test_auto_reliability_follows_when_publishers_change(start: Start, world: World) -> None:
    rig = start()
    subscription = rig.node._cameras[""].input
    assert subscription.reliability == ReliabilityPolicy.RELIABLE
    second = rig.make_camera("image", ReliabilityPolicy.BEST_EFFORT)
    wait_for(lambda: subscription.reliability == ReliabilityPolicy.BEST_EFFORT, what="best effort for the second")
    world.probe.destroy_publisher(second)
    wait_for(lambda: subscription.reliability == ReliabilityPolicy.RELIABLE, what="reliable again")
    wait_for(rig.camera.get_subscription_count)
    time.sleep(0.2)
    rig.answer()


def test_incompatible_reliability_is_named(start: Start, world: World) -> None:
    rig = start(image_reliability="reliable")
    rig.make_camera("image", ReliabilityPolicy.BEST_EFFORT)
    wait_for(lambda: rig.said("does not fit"), what="the warning")
    text = rig.said("does not fit")[0]
    assert rig.camera.topic_name in text and "best effort" in text and "asks for reliable" in text
    assert rig.set("image_reliability", "best_effort").successful
    assert rig.node._cameras[""].input.reliability == ReliabilityPolicy.BEST_EFFORT


def test_latched_durability_of_the_output(start: Start, world: World) -> None:
    rig = start(vocabulary=["a"])
    late: list[Vocabulary] = []
    world.probe.create_subscription(Vocabulary, f"{world.namespace}/openvis/vocabulary", late.append, LATCHED)
    wait_for(lambda: late, what="the latched vocabulary")
    assert list(late[0].names) == ["a"] and late[0].version == 1
    info = rig.node.get_publishers_info_by_topic(f"{world.namespace}/openvis/vocabulary")[0]
    assert info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL


def test_qos_can_be_overridden(start: Start, world: World) -> None:
    """Those of one camera are not those of another, nor of the nodes that come later in this process."""
    topic = f"{world.namespace}/openvis/front/instances"
    images = f"{world.namespace}/front/image"
    rig = start(
        start=False,
        **{
            "cameras": ["front", "rear"],
            f"qos_overrides.{topic}.publisher.reliability": "best_effort",
            f"qos_overrides.{images}.subscription.depth": 2,
        },
    )
    rig.node.start()
    for camera, policy in (("front", ReliabilityPolicy.BEST_EFFORT), ("rear", ReliabilityPolicy.RELIABLE)):
        info = rig.node.get_publishers_info_by_topic(topic.replace("front", camera))[0]
        assert info.qos_profile.reliability == policy, camera
    depths = [rig.node._cameras[n].input._subscriptions[0]._subscription.qos_profile.depth for n in ("front", "rear")]
    assert depths == [2, 5]
    assert RESULTS.reliability == ReliabilityPolicy.RELIABLE


def test_of_many_publishers_of_words_only_the_latest_are_remembered(world: World) -> None:
    heard: list[Any] = []
    topic = WordsTopic(world.probe, heard.append)
    for number in range(1000):
        info = {"publisher_gid": {"data": number.to_bytes(16, "little")}, "source_timestamp": 1 + number}
        topic._take(Vocabulary(names=[f"word {number}"]), info)
        topic._take(Vocabulary(names=[f"word {number}"]), info)  # the second subscription's copy
    assert len(heard) == 1000 and len(topic._taken) == 256


@pytest.mark.parametrize(("sec", "nanosec"), [(-(2**31), 0), (-1, 2**32 - 1), (2**31 - 1, 2**32 - 1)])
def test_any_stamp_is_answered(start: Start, sec: int, nanosec: int) -> None:
    """Also those that rclpy's Time takes for an error."""
    rig = start()
    message = rig.image()
    message.header.stamp.sec, message.header.stamp.nanosec = sec, nanosec
    rig.answer(message)
    statistics = rig.node._cameras[""].statistics
    wait_for(lambda: not math.isnan(statistics.summary().latency), what="the latency")


def test_a_node_at_rest_keeps_no_memory_for_frames(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[str] = []
    monkeypatch.setattr(openvis_node, "give_back_freed_memory", lambda collect=True: given_back.append("back"))
    rig = start()
    rig.answer()
    assert not given_back
    assert rig.transit(Transition.TRANSITION_DEACTIVATE) and given_back == ["back"]
    assert rig.transit(Transition.TRANSITION_ACTIVATE)
    rig.answer()
