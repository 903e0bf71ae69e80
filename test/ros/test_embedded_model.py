"""The node with the embedded model in place of a made-up engine: several cameras, and a clock that starts again."""

from __future__ import annotations

import time
from typing import Any

from ros_rig import Rig, Start
from ros_world import World, wait_for
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header

from instformer_ros.data.toyvideo import ToyVideo
from instformer_ros.engine import Engine
from instformer_ros.msg import InstanceArray
from instformer_ros.ros.images import to_message
from instformer_ros.settings import Settings
from instformer_ros.structures import Session

CAMERAS = ("front", "left", "rear")
WITH, WITHOUT = 8, 6  # rounds with and without the left camera
SEED = 900001


class Embedded:
    """Loads the embedded model, and notes how many pictures every pass of its network takes."""

    def __init__(self) -> None:
        self.passes: list[int] = []
        self.round = 0.25  # seconds that leave this machine time for a pass with three pictures

    def measure(self) -> None:
        """Sets the length of a round."""
        engine = Engine.load("toyvis", "cpu")
        pictures = {name: ToyVideo(SEED).frame(0)[0] for name in CAMERAS}
        engine.step(pictures)
        started = time.monotonic()
        engine.step(pictures)
        self.round = max(self.round, 4 * (time.monotonic() - started))

    def __call__(self, model: str, device: str, settings: Settings, *, precision: str, session: Session) -> Engine:
        engine = Engine.load(model, "cpu", settings, precision=precision, session=session)
        engine.model.proposals.register_forward_hook(lambda _, images, __: self.passes.append(len(images[0])))
        return engine


def _listen(rig: Rig, camera: str = "") -> tuple[Any, list[InstanceArray]]:
    """A publisher of the camera's images, and the answers to them."""
    prefix = f"{camera}/" if camera else ""
    publisher = rig.make_camera(f"{prefix}image")
    answers: list[InstanceArray] = []
    topic = f"{rig.world.namespace}/openvis/{prefix}instances"
    rig.world.probe.create_subscription(InstanceArray, topic, answers.append, 100)
    wait_for(publisher.get_subscription_count, what=f"the subscription to '{camera}'")
    wait_for(lambda: rig.node.count_subscribers(topic), what="our own")
    return publisher, answers


def _ids(answers: list[InstanceArray]) -> set[int]:
    return {instance.track_id for answer in answers for instance in answer.instances}


def test_three_cameras_share_a_pass_with_ids_of_their_own_and_one_unplugged_leaves_the_others_their_rate(
    start: Start,
) -> None:
    """The wait for each other is as long as four rounds: waiting for the unplugged one would be seen."""
    embedded = Embedded()
    embedded.measure()
    wait = min(1.0, 4 * embedded.round)
    rig = start(embedded, start=False, cameras=list(CAMERAS), round_wait=wait, score_threshold=0.0)
    rig.node.start()
    ends = {name: _listen(rig, name) for name in CAMERAS}
    videos = {name: ToyVideo(SEED + i) for i, name in enumerate(CAMERAS)}
    time.sleep(0.3)
    embedded.passes.clear()  # the warm-up's
    ended = []
    for number in range(WITH + WITHOUT):
        due = time.monotonic() + embedded.round
        plugged = [name for name in CAMERAS if name != "left" or number < WITH]
        for name in plugged:
            header = Header(frame_id=name)
            header.stamp.sec = 1 + number
            ends[name][0].publish(to_message(videos[name].frame(number)[0], header))
        wait_for(lambda p=plugged, n=number: all(len(ends[name][1]) > n for name in p), what=f"round {number}")
        time.sleep(max(0.0, due - time.monotonic()))
        ended.append(time.monotonic())

    assert embedded.passes[-3:] == [2] * 3, embedded.passes
    assert embedded.passes.count(3) >= WITH - 2, embedded.passes  # the first two rounds teach the rhythm
    before, after = (ended[WITH - 1] - ended[2]) / (WITH - 3), (ended[-1] - ended[WITH + 1]) / (WITHOUT - 2)
    assert after < 1.5 * before, (before, after)
    ids = {name: _ids(answers) for name, (_, answers) in ends.items()}
    assert all(ids.values()) and len(set.union(*ids.values())) == sum(map(len, ids.values())), ids
    for name in ("front", "rear"):
        answers = ends[name][1]
        assert [answer.frame_index for answer in answers] == list(range(WITH + WITHOUT))
        assert _ids(answers[:WITH]) & _ids(answers[-1:]), f"no track of '{name}' outlived the change"


def test_a_clock_that_starts_again_gives_new_tracks(start: Start, world: World) -> None:
    """A looping bag under use_sim_time: /clock and the stamps fall back together."""
    rig = start(Embedded(), start=False, use_sim_time=True, score_threshold=0.0)
    rig.node.start()
    camera, answers = _listen(rig)
    clock = world.probe.create_publisher(Clock, "/clock", 10)
    wait_for(clock.get_subscription_count, what="the node's clock")
    video = ToyVideo(SEED)

    def play(start: int) -> list[InstanceArray]:
        begun = len(answers)
        for number in range(start, start + 4):
            now = Clock()
            now.clock.sec = 100 + number
            clock.publish(now)
            wait_for(lambda t=now.clock.sec: rig.node.get_clock().now().nanoseconds == t * 10**9, what="the time")
            header = Header(frame_id="eye", stamp=now.clock)
            camera.publish(to_message(video.frame(number)[0], header))
            wait_for(lambda h=header: answers[begun:] and answers[-1].header == h, what=f"frame {number}")
        return answers[begun:]

    time.sleep(0.3)
    runs = [play(8), play(0), play(4)]
    assert [answer.frame_index for run in runs for answer in run] == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7]
    first, again, on = map(_ids, runs)
    assert first and again and not first & again, (first, again)
    assert again & on, (again, on)
    assert rig.said("the clock jumped back") and not rig.said("Traceback")
