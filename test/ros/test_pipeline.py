"""The frame pipeline, its helpers and the parameter table: no DDS needed."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from pipeline_fakes import Make, film
from rclpy.qos import ReliabilityPolicy
from ros_fakes import Answered, FakeEngine
from ros_world import wait_for

from instformer_ros.ros.parameters import Spec, When
from instformer_ros.ros.qos import choose_reliability
from instformer_ros.ros.throttle import Throttle
from instformer_ros.settings import Settings
from instformer_ros.structures import DeviceLostError, InstformerError, TrackedFrame

_RELIABLE, _BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


def test_newest_frame_of_every_camera(make: Make) -> None:
    pipeline, engine, outlet = make(step_time=0.05)
    pipeline.put("a", 1)
    wait_for(lambda: engine.steps)
    for number in (2, 3, 4):
        pipeline.put("a", number)
    pipeline.put("b", 9)
    wait_for(lambda: len(outlet.published) == 3)
    assert outlet.published == [("a", 1, 0), ("a", 4, 0), ("b", 9, 0)]
    assert len(engine.steps) == 2 and set(engine.steps[1]) == {"a", "b"}
    counts = pipeline.counts()
    assert (counts["a"].received, counts["a"].answered, counts["a"].dropped) == (4, 2, 2)
    assert str(counts["b"]) == "1 received, 1 answered, 0 dropped, 0 refused, 0 failed"


def test_a_bad_frame_does_not_take_the_other_cameras_down(make: Make) -> None:
    pipeline, _, outlet = make(step_time=0.02)
    pipeline.put("a", 1)
    for number in range(20):
        pipeline.put("a", -1 - number)
        pipeline.put("b", number)
        time.sleep(0.005)
    wait_for(lambda: ("b", 19, 0) in outlet.published)
    assert outlet.complaints and all(camera == "a" for camera, _ in outlet.complaints)
    counts = pipeline.counts()
    assert counts["a"].refused == len(outlet.complaints) and counts["b"].refused == 0


def test_failures_are_counted_and_survived(make: Make) -> None:
    pipeline, engine, outlet = make()
    engine.fault = MemoryError("no memory")
    pipeline.put("a", 1)
    wait_for(lambda: outlet.complaints)
    engine.fault, outlet.deaf = None, True
    pipeline.put("a", 2)
    wait_for(lambda: len(outlet.complaints) == 2)
    outlet.deaf = False
    pipeline.put("a", 3)
    wait_for(lambda: outlet.published == [("a", 3, 0)])
    counts = pipeline.counts()["a"]
    assert (counts.failed, counts.answered, counts.refused) == (2, 1, 0)


def test_words_change_between_frames_only(make: Make) -> None:
    pipeline, engine, outlet = make(step_time=0.002)
    stop = film(pipeline)
    seen = []
    begin = engine.begin

    def watched(images: Any) -> Any:
        before = engine.vocabulary
        answer = begin(images)
        seen.append(before is engine.vocabulary)
        return answer

    engine.begin = watched  # type: ignore[method-assign]
    for number in range(100):
        pipeline.set_vocabulary([f"word {number}"]).result(10)
    stop.set()
    assert len(seen) > 30 and all(seen)
    assert [v.version for v in outlet.vocabularies] == list(range(1, 101))


def test_the_same_words_change_nothing(make: Make) -> None:
    pipeline, _, outlet = make()
    assert pipeline.set_vocabulary(["a"]).result(10).version == 1
    assert pipeline.set_vocabulary(["a"]).result(10).version == 1
    assert pipeline.set_vocabulary(["a"], always=True).result(10).version == 2
    assert len(outlet.vocabularies) == 2


def test_refused_words_reach_who_asked(make: Make) -> None:
    pipeline, engine, _ = make()
    pipeline.set_vocabulary(["good"]).result(10)
    with pytest.raises(InstformerError, match="unspeakable"):
        pipeline.set_vocabulary(["unspeakable"]).result(10)
    assert engine.vocabulary.names == ("good",)


def test_settings_and_resets_come_between_frames(make: Make) -> None:
    pipeline, engine, _ = make()
    pipeline.set_settings(Settings(score_threshold=0.9)).result(10)
    assert engine.settings.score_threshold == 0.9
    pipeline.reset().result(10)
    assert engine.resets == 1


def test_discard_waits_for_the_pass_under_way(make: Make) -> None:
    pipeline, engine, outlet = make(step_time=0.2)
    pipeline.put("a", 1)
    wait_for(lambda: engine.steps)
    pipeline.put("a", 2)
    pipeline.discard()
    assert outlet.published == [("a", 1, 0)]
    assert pipeline.counts()["a"].dropped == 1


def test_closing_ends_the_threads_and_answers_everybody(make: Make) -> None:
    before = threading.active_count()
    pipeline, engine, _ = make(encode_time=0.3)
    waiting = [pipeline.set_vocabulary([f"word {n}"]) for n in range(3)]
    assert pipeline.close() and engine.closed
    assert threading.active_count() == before
    for future in waiting:
        assert future.cancelled() or future.done()
    assert pipeline.set_vocabulary(["late"]).cancelled()


@pytest.mark.parametrize(
    ("wish", "offered", "current", "chosen"),
    [
        ("auto", [], _RELIABLE, _RELIABLE),
        ("auto", [], _BEST_EFFORT, _BEST_EFFORT),
        ("auto", [_RELIABLE, _RELIABLE], _BEST_EFFORT, _RELIABLE),
        ("auto", [_RELIABLE, _BEST_EFFORT], _RELIABLE, _BEST_EFFORT),
        ("reliable", [_BEST_EFFORT], _BEST_EFFORT, _RELIABLE),
        ("best_effort", [_RELIABLE], _RELIABLE, _BEST_EFFORT),
    ],
)
def test_reliability(wish: str, offered: list[Any], current: Any, chosen: Any) -> None:
    assert choose_reliability(wish, offered, current) == chosen


def test_throttle() -> None:
    now = [0.0]
    throttle = Throttle(5.0, lambda: now[0])
    assert throttle("a", "bad") == "bad"
    assert throttle("b", "worse") == "worse"
    for now[0] in (1.0, 2.0, 4.9):
        assert throttle("a", "bad") is None
    now[0] = 6.0
    assert throttle("a", "bad again") == "bad again (and 3 more in the last 6 s)"
    now[0] = 20.0
    assert throttle("a", "bad") == "bad"


def test_a_throttle_remembers_no_more_than_it_must() -> None:
    """Kinds may come from messages: the frame_ids of images, which may be ever new ones."""
    throttle = Throttle()
    for number in range(5000):
        assert throttle(f"frame {number}", "bad") == "bad"
        throttle("often", "bad")
    assert len(throttle._said) < 1000
    assert throttle(f"frame {number}", "bad") is None


def test_a_spec_says_what_it_takes_and_why_it_refuses() -> None:
    spec = Spec("mode", "fast", "how it goes", When.CONFIGURE, choices=("fast", "slow"))
    assert spec.refusal("slow", configured=False) is None
    assert "fast, slow" in str(spec.refusal("odd", configured=False))
    assert "unconfigured" in str(spec.refusal("slow", configured=True))
    assert "fast, slow" in spec.descriptor().additional_constraints
    assert Spec("x", 1.0, "", least=0, most=2).descriptor().floating_point_range[0].to_value == 2.0
    assert Spec("x", 1, "", When.START, least=0, most=2).descriptor().integer_range[0].to_value == 2
    assert Spec("x", 1, "", When.START).descriptor().read_only


def test_encoding_gives_way_while_frames_flow_and_ends_when_the_pipeline_does(make: Make) -> None:
    pipeline, engine, _ = make()
    waited: list[float] = []

    def encode(names: Any, pause: Callable[[float], None]) -> Any:
        for _ in range(3):
            before = time.monotonic()
            pause(0.1)
            waited.append(time.monotonic() - before)
        return tuple(names)

    engine.encode_vocabulary = encode  # type: ignore[method-assign]
    pipeline.set_vocabulary(["idle"]).result(10)
    assert max(waited) < 0.05
    waited.clear()
    pipeline.put("a", 1)
    wait_for(lambda: engine.steps)
    pipeline.set_vocabulary(["busy"]).result(10)
    assert min(waited) >= 0.19
    engine.encode_vocabulary = lambda names, pause: [pause(0.2) for _ in range(1000)]  # type: ignore[method-assign]
    pipeline.put("a", 2)
    endless = pipeline.set_vocabulary(["endless"])
    time.sleep(0.3)
    started = time.monotonic()
    assert pipeline.close() and time.monotonic() - started < 1.0
    with pytest.raises(InstformerError, match="cleaned up"):
        endless.result(1)


def fail(engine: FakeEngine, where: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every frame fails, in its pass or with its masks."""

    def finish(self: Answered) -> TrackedFrame:
        raise error

    if where == "pass":
        engine.fault = error
    else:
        monkeypatch.setattr(Answered, "finish", finish)


@pytest.mark.parametrize("where", ["pass", "masks"])
def test_an_engine_that_fails_for_ever_ends_it_and_that_is_said(
    make: Make, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr("instformer_ros.nodes.pipeline._HOPELESS", 3)
    pipeline, engine, outlet = make()
    fail(engine, where, RuntimeError("device lost"), monkeypatch)
    for number in range(3):
        assert not outlet.deaths
        pipeline.put("a", number)
        wait_for(lambda number=number: len(outlet.complaints) == number + 1)  # type: ignore[misc]
    wait_for(lambda: outlet.deaths == ["device lost"] and engine.closed, what="the end")
    assert pipeline.discard() and pipeline.set_vocabulary(["late"]).cancelled()


@pytest.mark.parametrize("where", ["pass", "masks"])
def test_a_lost_device_ends_it_at_once(make: Make, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    pipeline, engine, outlet = make()
    lost = DeviceLostError("device 'cuda:0' is lost: end this process")
    fail(engine, where, lost, monkeypatch)
    pipeline.put("a", 1)
    wait_for(lambda: outlet.deaths == [str(lost)] and engine.closed, what="the end")
    assert pipeline.counts()["a"].refused == 1


def test_failures_now_and_then_end_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instformer_ros.nodes.pipeline._HOPELESS", 3)
    pipeline, _, outlet = make()
    finish, turn = Answered.finish, itertools.count()

    def sometimes(self: Answered) -> TrackedFrame:
        if next(turn) % 3:
            raise RuntimeError("no")
        return finish(self)

    monkeypatch.setattr(Answered, "finish", sometimes)
    for number in range(12):
        pipeline.put("a", number)
        wait_for(lambda number=number: sum(map(len, (outlet.published, outlet.complaints))) > number)  # type: ignore[misc]
    assert len(outlet.published) == 4 and not outlet.deaths


def test_frames_that_memory_does_not_suffice_for_are_refused_for_ever(make: Make) -> None:
    pipeline, engine, outlet = make()
    engine.fault = InstformerError("memory of device 'cuda:0' does not suffice: end other programs on it")
    for number in range(40):  # more than would end the worker, were it an error of ours
        pipeline.put("a", number)
        wait_for(lambda number=number: pipeline.counts()["a"].refused == number + 1)  # type: ignore[misc]
    engine.fault = None
    pipeline.put("a", 99)
    wait_for(lambda: outlet.published == [("a", 99, 0)])
    assert not outlet.deaths


def test_a_shortage_is_told_once_each_time_it_comes(make: Make) -> None:
    pipeline, engine, outlet = make()
    for number, shortage in enumerate(["", "short", "short", "", "short"]):
        engine.shortage = shortage
        pipeline.put("a", number)
        wait_for(lambda number=number: len(outlet.published) == number + 1)  # type: ignore[misc]
        pipeline.reset().result(10)
    assert pipeline.shortage == "short" and outlet.complaints == [("engine", "short")] * 2


def test_results_of_a_pass_that_was_given_up_are_thrown_away(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instformer_ros.nodes.pipeline._JOIN", 0.05)
    pipeline, engine, outlet = make(step_time=0.4)
    pipeline.put("a", 1)
    wait_for(lambda: engine.steps)
    assert not pipeline.discard()
    wait_for(lambda: pipeline.counts()["a"].dropped == 1)
    monkeypatch.setattr("instformer_ros.nodes.pipeline._JOIN", 4.0)
    pipeline.put("a", 2)
    assert wait_for(lambda: outlet.published) == [("a", 2, 0)]
