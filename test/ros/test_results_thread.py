"""The results thread of the pipeline: beside the next pass, in order, bounded, and to the end."""

from __future__ import annotations

import threading
import time

import pytest
from pipeline_fakes import Make, Picture, film
from rclpy.qos import ReliabilityPolicy
from ros_fakes import Answered
from ros_world import wait_for

from instformer_ros.nodes.pipeline import Pipeline
from instformer_ros.structures import TrackedFrame, Vocabulary

_RELIABLE, _BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


def under_way(pipeline: Pipeline[int, Picture]) -> int:
    """Frames of camera "a" of which it is not settled what becomes of them."""
    counts = pipeline.counts()["a"]
    return counts.received - counts.answered - counts.dropped - counts.refused - counts.failed


def test_masks_are_encoded_beside_the_next_pass(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the thread that publishes; what fails there costs that frame alone."""
    threads: list[str] = []
    faults = [MemoryError("no room for masks"), None, None]

    def finish(self: Answered) -> TrackedFrame:
        threads.append(threading.current_thread().name)
        time.sleep(0.05)
        if (fault := faults[len(threads) - 1]) is not None:
            raise fault
        return self.frame

    monkeypatch.setattr(Answered, "finish", finish)
    pipeline, engine, outlet = make(step_time=0.001)
    for number in range(3):
        pipeline.put("a", number)
        wait_for(lambda number=number: len(engine.steps) > number)  # type: ignore[misc]
        assert len(threads) <= number + 1
    wait_for(lambda: outlet.published == [("a", 1, 0), ("a", 2, 0)])
    assert threads == ["results"] * 3
    assert outlet.complaints == [("a", "no room for masks")]
    counts = pipeline.counts()["a"]
    assert (counts.failed, counts.answered) == (1, 2)


def test_publication_overlaps_the_next_pass(make: Make) -> None:
    pipeline, engine, outlet = make(step_time=0.05)
    outlet.publish_time = 0.05
    pipeline.put("a", 0)
    wait_for(lambda: engine.steps)
    started = time.monotonic()
    for number in range(1, 11):
        pipeline.put("a", number)
        wait_for(lambda number=number: len(engine.steps) > number)  # type: ignore[misc]
    wait_for(lambda: len(outlet.published) == 11)
    assert time.monotonic() - started < 0.95  # 1.05 s one after the other, 0.55 s side by side
    assert [number for _, number, _ in outlet.published] == list(range(11))


@pytest.mark.parametrize(("step_time", "publish_time"), [(0.0, 0.01), (0.01, 0.0), (0.005, 0.005)])
def test_results_leave_in_order_and_the_newest_frame_wins(make: Make, step_time: float, publish_time: float) -> None:
    pipeline, _, outlet = make(step_time=step_time)
    outlet.publish_time = publish_time
    most = 0
    for number in range(100):
        pipeline.put("a", number)
        pipeline.put("b", number)
        most = max(most, under_way(pipeline))
        time.sleep(0.002)
    wait_for(lambda: ("a", 99, 0) in outlet.published and ("b", 99, 0) in outlet.published)
    assert most <= 3
    for camera in ("a", "b"):
        numbers = [number for name, number, _ in outlet.published if name == camera]
        assert numbers == sorted(set(numbers)) and len(numbers) < 100


def test_one_passs_results_wait_at_most(make: Make) -> None:
    pipeline, engine, outlet = make()
    outlet.gate.clear()
    for number in range(10):
        pipeline.put("a", number)
        wait_for(lambda number=number: len(engine.steps) > min(number, 1))  # type: ignore[misc]
    time.sleep(0.1)
    assert len(engine.steps) == 2  # one on its way out, one that waits; no third pass for results out of date
    outlet.gate.set()
    wait_for(lambda: len(outlet.published) == 3)
    assert [number for _, number, _ in outlet.published] == [0, 1, 9]
    assert pipeline.counts()["a"].dropped == 7


def test_discard_waits_for_the_results_to_be_out(make: Make) -> None:
    pipeline, engine, outlet = make()
    outlet.publish_time = 0.1
    for number in range(2):
        pipeline.put("a", number)
        wait_for(lambda number=number: len(engine.steps) > number)  # type: ignore[misc]
    assert pipeline.discard()
    assert outlet.published == [("a", 0, 0), ("a", 1, 0)]


def test_results_that_discard_gave_up_are_thrown_away(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instformer_ros.nodes.pipeline._JOIN", 0.05)
    pipeline, engine, outlet = make()
    outlet.gate.clear()
    for number in range(2):
        pipeline.put("a", number)
        wait_for(lambda number=number: len(engine.steps) > number)  # type: ignore[misc]
    assert not pipeline.discard()
    outlet.gate.set()
    wait_for(lambda: not under_way(pipeline))
    assert outlet.published == [("a", 0, 0)] and pipeline.counts()["a"].dropped == 1
    monkeypatch.setattr("instformer_ros.nodes.pipeline._JOIN", 4.0)
    pipeline.put("a", 2)
    assert wait_for(lambda: outlet.published[1:]) == [("a", 2, 0)]


def test_words_change_between_results(make: Make) -> None:
    pipeline, _, outlet = make()
    outlet.publish_time = 0.003
    told: list[tuple[str, int]] = []
    publish, changed = outlet.publish, outlet.vocabulary_changed

    def published(camera: str, frame: Picture, answer: TrackedFrame) -> None:
        publish(camera, frame, answer)
        told.append(("result", answer.vocabulary.version))

    def change(vocabulary: Vocabulary, unknown: tuple[str, ...]) -> None:
        changed(vocabulary, unknown)
        told.append(("words", vocabulary.version))

    outlet.publish, outlet.vocabulary_changed = published, change  # type: ignore[method-assign]
    stop = film(pipeline)
    for number in range(50):
        pipeline.set_vocabulary([f"word {number}"]).result(10)
        time.sleep(0.005)
    stop.set()
    in_force = 0
    for kind, version in told:
        in_force = version if kind == "words" else in_force
        assert version == in_force
    assert in_force == 50 and sum(kind == "result" for kind, _ in told) > 30


def test_a_job_is_not_starved_by_slow_results(make: Make) -> None:
    pipeline, engine, outlet = make()
    outlet.publish_time = 0.02
    for number in range(20):
        pipeline.put("a", number)
        time.sleep(0.005)
    started = time.monotonic()
    reset = pipeline.reset()
    while not reset.done():
        pipeline.put("a", 99)
        time.sleep(0.001)
        assert time.monotonic() - started < 2.0
    assert engine.resets == 1


def test_closing_throws_waiting_results_away(make: Make) -> None:
    before = threading.active_count()
    pipeline, engine, outlet = make()
    outlet.gate.clear()
    for number in range(2):
        pipeline.put("a", number)
        wait_for(lambda number=number: len(engine.steps) > number)  # type: ignore[misc]
    pipeline.put("a", 2)
    threading.Timer(0.2, outlet.gate.set).start()
    assert pipeline.close() and engine.closed and threading.active_count() == before
    assert outlet.published == [("a", 0, 0)]
    counts = pipeline.counts()["a"]
    assert (counts.received, counts.answered, counts.dropped) == (3, 1, 2)


def test_the_last_thread_closes_the_engine(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instformer_ros.nodes.pipeline._JOIN", 0.05)
    pipeline, engine, outlet = make()
    outlet.gate.clear()
    pipeline.put("a", 1)
    wait_for(lambda: outlet.begun)
    assert not pipeline.close() and not engine.closed
    outlet.gate.set()
    wait_for(lambda: engine.closed)
    assert outlet.published == [("a", 1, 0)] and not outlet.deaths
    monkeypatch.setattr("instformer_ros.nodes.pipeline._JOIN", 4.0)


def test_an_error_that_ends_the_results_thread_ends_the_pipeline(make: Make) -> None:
    pipeline, engine, outlet = make()
    outlet.fault = SystemExit("out of descriptors")
    pipeline.put("a", 1)
    wait_for(lambda: outlet.deaths == ["out of descriptors"] and engine.closed, what="the end")
    assert pipeline.counts()["a"].failed == 1 and not outlet.published
    assert pipeline.discard() and pipeline.set_vocabulary(["late"]).cancelled()
