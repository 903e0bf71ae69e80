"""Rounds of several cameras: which images a pass waits for, and three cameras at once through the node."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from pipeline_fakes import Outlet, Picture
from ros_fakes import FakeEngine
from ros_world import wait_for

from instformer_ros.nodes.pipeline import Pipeline
from instformer_ros.nodes.rounds import Rounds


@pytest.fixture
def rounds() -> Rounds:
    """Front at 10 Hz, rear at 2 Hz; both heard last at 10.0."""
    made = Rounds()
    for step in range(11):
        made.arrived("front", 9.0 + 0.1 * step)
    for step in range(5):
        made.arrived("rear", 8.0 + 0.5 * step)
    return made


def test_a_camera_is_waited_for_when_its_image_should_come(rounds: Rounds) -> None:
    assert not rounds.due({"front"}, 10.1, 0.02)  # the rear's next comes at 10.5
    assert rounds.due({"front"}, 10.485, 0.02)
    assert rounds.due({"front"}, 10.6, 0.02)  # it is late
    assert not rounds.due({"front"}, 11.0, 0.02)  # it was unplugged
    assert not rounds.due({"front", "rear"}, 10.5, 0.02)
    assert rounds.due({"rear"}, 10.1, 0.02)


def test_a_long_gap_makes_a_camera_hardly_slower(rounds: Rounds) -> None:
    rounds.arrived("front", 100.0)
    assert rounds.due({"rear"}, 100.13, 0.0) and not rounds.due({"rear"}, 100.26, 0.0)


@pytest.mark.parametrize("first", [0.01, 1.5])
def test_a_first_gap_that_is_no_rhythm_is_soon_forgotten(first: float) -> None:
    """Two images in a burst, or a slow first one: a running mean took six images to come back from it."""
    rounds, now = Rounds(), 10.0
    for gap in (0.0, first, 0.5, 0.5):
        now += gap
        rounds.arrived("left", now)
    assert rounds.due({"front"}, now + 0.5, 0.02) and not rounds.due({"front"}, now + 0.4, 0.02)
    assert not rounds.due({"front"}, now + 1.01, 0.02)


def test_the_round_after_this_one_is_not_waited_for(rounds: Rounds) -> None:
    """However long one may wait: the late image of a round goes by itself."""
    assert not rounds.due({"front"}, 10.2, 5.0)
    assert rounds.due({"front"}, 10.3, 5.0)


def test_a_camera_heard_once_has_no_rhythm() -> None:
    rounds = Rounds()
    rounds.arrived("front", 1.0)
    assert not rounds.due((), 1.0, 10.0)


@pytest.fixture
def three() -> Iterator[tuple[Pipeline[int, Picture], FakeEngine, Outlet]]:
    engine, outlet = FakeEngine(step_time=0.001), Outlet()
    pipeline: Pipeline[int, Picture] = Pipeline(engine, outlet, round_wait=0.05)
    yield pipeline, engine, outlet
    assert pipeline.close()


def test_one_pass_a_round_and_no_waiting_for_the_unplugged(
    three: tuple[Pipeline[int, Picture], FakeEngine, Outlet],
) -> None:
    pipeline, engine, outlet = three
    for number in range(20):
        for camera in ("front", "left", "right"):
            if camera != "left" or number < 10:
                pipeline.put(camera, number)
                time.sleep(0.005)  # they never come at the very same time
        time.sleep(0.1)
    wait_for(lambda: len(outlet.published) == 50)
    assert [len(images) for images in engine.steps[-8:]] == [2] * 8
    whole = [images for images in engine.steps if len(images) == 3]
    assert len(whole) >= 7  # of ten: the first two rounds teach the rhythm
    for camera, count in (("front", 20), ("left", 10), ("right", 20)):
        assert [number for name, number, _ in outlet.published if name == camera] == list(range(count))
