"""The openvis node with a made-up engine: words by topic, service and parameter."""

from __future__ import annotations

import time
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from rclpy.publisher import Publisher
from ros_fakes import Loader
from ros_rig import Rig, Start
from ros_world import World, wait_for

from instformer_ros.msg import Vocabulary
from instformer_ros.ros.qos import LATCHED, VOLATILE
from instformer_ros.srv import SetVocabulary


def test_names_and_versions_never_mix_in_1000_frames(start: Start) -> None:
    rig = start(Loader(engine_arguments={"step_time": 0.0005, "encode_time": 0.002}), vocabulary=["w0a", "w0b"])
    change = 0
    while len(rig.answers) < 1000:
        rig.camera.publish(rig.image())
        if len(rig.answers) // 20 > change:
            change += 1
            names = [f"w{change}{letter}" for letter in "abcd"[: 1 + change % 4]]
            if change % 2:
                rig.node._words.ask(names)
            else:
                assert rig.say(names).success
        time.sleep(0.002)
    time.sleep(0.2)
    assert change >= 40
    words = {v.version: list(v.names) for v in rig.vocabularies}
    assert len(words) == change + 1
    used = set()
    for answer in rig.answers:
        used.add(answer.vocabulary_version)
        names = words[answer.vocabulary_version]
        assert [i.track_id for i in answer.instances] == [2]
        for instance in answer.instances:
            assert instance.class_name == names[instance.class_index]
    assert len(used) >= 40
    versions = [answer.vocabulary_version for answer in rig.answers]
    assert versions == sorted(versions)


def test_a_result_never_comes_before_its_vocabulary(start: Start) -> None:
    rig = start()
    engine = rig.loader.engine
    published: list[int] = []
    rig.node._words._publisher.publish = lambda message: published.append((message.version, len(engine.steps)))  # type: ignore
    assert rig.say(["a"]).success
    before = len(engine.steps)
    rig.answer()
    assert published == [(2, before)]


def speaker(world: World, latched: bool) -> Publisher:
    """A publisher of words that the node listens to."""
    publisher = world.probe.create_publisher(
        Vocabulary, f"{world.namespace}/vocabulary", LATCHED if latched else VOLATILE
    )
    wait_for(lambda: publisher.get_subscription_count() >= (2 if latched else 1), what="the subscriptions")
    time.sleep(0.2)
    return publisher


@pytest.mark.parametrize("latched", [False, True])
def test_words_by_topic(start: Start, world: World, latched: bool) -> None:
    rig = start()
    publisher = speaker(world, latched)
    for names in (["a", "b"], ["c"], ["a", "b"]):
        publisher.publish(Vocabulary(version=99, names=names))
        time.sleep(0.2)
    wait_for(lambda: len(rig.vocabularies) >= 4, what="three changes")
    time.sleep(0.3)
    assert [v.version for v in rig.vocabularies] == [1, 2, 3, 4]
    assert [list(v.names) for v in rig.vocabularies] == [[], ["a", "b"], ["c"], ["a", "b"]]


@pytest.mark.parametrize("latched", [False, True])
def test_of_many_words_at_once_the_last_stay(start: Start, world: World, latched: bool) -> None:
    rig = start()
    publisher = speaker(world, latched)
    for number in range(8):
        publisher.publish(Vocabulary(names=[f"word {number}"]))
    wait_for(lambda: list(rig.vocabularies[-1].names) == ["word 7"], what="the last words")
    time.sleep(0.3)
    assert list(rig.vocabularies[-1].names) == ["word 7"]


def test_words_latched_before_the_node_came_are_heard_and_not_again(start: Start, world: World) -> None:
    publisher = world.probe.create_publisher(Vocabulary, f"{world.namespace}/vocabulary", LATCHED)
    publisher.publish(Vocabulary(names=["early"]))
    rig = start(vocabulary=["later"])
    wait_for(lambda: [v for v in rig.vocabularies if list(v.names) == ["early"]], what="the latched words")
    assert rig.say(["by hand"]).success
    for transition in ("DEACTIVATE", "CLEANUP", "CONFIGURE"):
        assert rig.transit(getattr(Transition, f"TRANSITION_{transition}"))
    time.sleep(0.5)
    assert rig.loader.engine.vocabulary.names == ("by hand",)  # the old message is not taken for a new one
    wait_for(publisher.get_subscription_count)


def test_words_by_service(start: Start) -> None:
    rig = start(Loader(engine_arguments={"encode_time": 0.5}))
    response = rig.say([" mug ", "MUG", "", "tête-à-tête", "茶碗"])
    assert response.success and response.version == 2, response
    assert list(wait_for(lambda: rig.vocabularies[1:])[0].names) == ["mug", "tête-à-tête", "茶碗"]
    assert rig.answer().vocabulary_version == 2
    assert rig.node.get_parameter("vocabulary").value == ["mug", "tête-à-tête", "茶碗"]
    again = rig.say(["mug", "tête-à-tête", "茶碗"])
    assert again.success and again.version == 2
    empty = rig.say([])
    assert empty.success and empty.version == 3
    answer = rig.answer()
    assert answer.instances[0].class_index == -1 and answer.instances[0].class_name == ""


def ask_slowly(start: Start, world: World) -> tuple[Rig, Any]:
    """A node that takes a second to encode words, and a request for some, under way."""
    rig = start(Loader(engine_arguments={"encode_time": 1.0}))
    client = world.probe.create_client(SetVocabulary, f"{world.namespace}/openvis/set_vocabulary")
    assert client.wait_for_service(10)
    future = client.call_async(SetVocabulary.Request(names=["slow"]))
    time.sleep(0.2)
    return rig, future


def test_frames_flow_while_words_are_encoded(start: Start, world: World) -> None:
    rig, future = ask_slowly(start, world)
    versions = []
    while not future.done():
        versions.append(rig.answer().vocabulary_version)
    assert versions.count(1) > 20
    assert future.result().version == 2 and rig.answer().vocabulary_version == 2


def test_a_request_for_words_is_answered_though_the_node_is_cleaned_up_meanwhile(start: Start, world: World) -> None:
    rig, future = ask_slowly(start, world)
    assert rig.transit(Transition.TRANSITION_DEACTIVATE) and rig.transit(Transition.TRANSITION_CLEANUP)
    wait_for(future.done, what="the answer")
    assert not future.result().success and "cleaned up" in future.result().message
    response = rig.say(["mug"])
    assert not response.success and "not configured; configure it first" in response.message and response.version == 0
    assert rig.transit(Transition.TRANSITION_CONFIGURE) and rig.say(["mug"]).success


def test_words_by_parameter(start: Start) -> None:
    rig = start()
    assert rig.set("vocabulary", ["cup", "saucer"]).successful
    wait_for(lambda: rig.vocabularies[1:], what="the change")
    assert rig.answer().instances[0].class_name == "cup"
    assert rig.set("vocabulary", [""]).successful
    wait_for(lambda: rig.vocabularies[2:], what="the change")
    assert list(rig.vocabularies[2].names) == []


@pytest.mark.parametrize(
    ("names", "reason"),
    [([f"word {i}" for i in range(10000)], "2000"), (["x" * 10000], "200"), (["good", "unspeakable"], "unspeakable")],
)
def test_bad_words_are_refused_and_the_old_ones_stay(start: Start, world: World, names: list[str], reason: str) -> None:
    rig = start(vocabulary=["mug"])
    response = rig.say(names)
    assert not response.success and reason in response.message and "\n" not in response.message
    assert response.version == 1
    if "unspeakable" not in names:
        result = rig.set("vocabulary", names)
        assert not result.successful and reason in result.reason
    publisher = world.probe.create_publisher(Vocabulary, f"{world.namespace}/vocabulary", VOLATILE)
    wait_for(publisher.get_subscription_count)
    rig.log.clear()
    rig.node._complaints._said.clear()
    for _ in range(5):
        publisher.publish(Vocabulary(names=names))
    wait_for(lambda: rig.said(reason), what="the refusal")
    time.sleep(0.3)
    assert len(rig.said(reason)) == 1  # throttled
    answer = rig.answer()
    assert answer.vocabulary_version == 1 and answer.instances[0].class_name == "mug"
    assert rig.node.get_parameter("vocabulary").value == ["mug"]


def test_unknown_words_are_warned_about(start: Start) -> None:
    rig = start(Loader(engine_arguments={"unknown_words": ("zeppelin",)}), vocabulary=["zeppelin"])
    wait_for(lambda: rig.said("zeppelin"), what="the warning")
