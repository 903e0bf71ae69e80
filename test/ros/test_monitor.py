"""How the node says that it is well or ill: diagnostics, ~/get_status, ~/reset, and a worker that dies."""

from __future__ import annotations

import time

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from ros_fakes import Loader
from ros_rig import Start
from ros_world import World, wait_for

from instformer_ros.nodes import pipeline as pipeline_module
from instformer_ros.nodes.statistics import WINDOW, Statistics
from instformer_ros.ros.diagnostics import Level, Report
from instformer_ros.srv import GetStatus, Reset


def test_statistics_are_of_the_last_seconds() -> None:
    now = [100.0]
    statistics = Statistics(lambda: now[0])
    for number in range(100):
        now[0] += 0.1
        statistics.arrived()
        if number % 2:
            statistics.answered(0.01 * (1 + number % 4), {"decode": 0.001, "proposals": 0.02}, tracks=number)
    summary = statistics.summary()
    assert summary.rate_in == pytest.approx(10.0, abs=0.3) and summary.rate_out == pytest.approx(5.0, abs=0.3)
    assert (summary.latency, summary.latency_max) == (pytest.approx(0.03, abs=0.011), pytest.approx(0.04))
    assert list(summary.stages) == ["decode", "proposals"] and summary.stages["proposals"] == pytest.approx(0.02)
    assert summary.tracks == 99 and summary.silence == 0
    now[0] += WINDOW + 1
    summary = statistics.summary()
    assert (summary.rate_in, summary.rate_out, summary.silence) == (0, 0, pytest.approx(WINDOW + 1))
    statistics.clear()
    assert statistics.summary().silence == 0


def test_a_report_keeps_the_worst_and_says_all() -> None:
    report = Report()
    report.above("latency", 0.5, warn=1.0, error=2.0)
    report.below("rate", 9.0, warn=0.0, error=0.0)
    assert (report.level, report.message) == (Level.OK, "ok")
    report.above("latency", 3.0, warn=1.0, error=2.0, unit=" s")
    report.below("rate", 9.0, warn=10.0, error=5.0)
    assert report.level is Level.ERROR
    assert report.message == "latency is 3 s, above 2 s; rate is 9, below 10"


class Listener:
    """Keeps the newest status of every name on /diagnostics."""

    def __init__(self, world: World) -> None:
        self.newest: dict[str, DiagnosticStatus] = {}
        world.probe.create_subscription(DiagnosticArray, "/diagnostics", self._take, 10)

    def _take(self, message: DiagnosticArray) -> None:
        self.newest = {status.name: status for status in message.status}

    def values(self, name: str) -> dict[str, str]:
        return {pair.key: pair.value for pair in self.newest[name].values}


def test_diagnostics_tell_what_the_node_does(start: Start, world: World) -> None:
    listener = Listener(world)
    parameters = {"diagnostic_updater.period": 0.1, "latency_warn": 3600.0, "latency_error": 3600.0}
    rig = start(Loader(engine_arguments={"device_memory": 3 * 2**20}), vocabulary=["mug"], **parameters)
    for _ in range(10):
        message = rig.image()
        message.header.stamp = rig.node.get_clock().now().to_msg()
        rig.answer(message)
    wait_for(lambda: "openvis: camera" in listener.newest and listener.values("openvis: camera")["answered"] == "10")
    assert listener.newest["openvis: node"].message == "active"
    values = listener.values("openvis: node")
    assert values["vocabulary version"] == "1" and values["GPU memory"] == "3 MiB"
    assert int(values["memory"].split()[0]) > 10 and values["device"] == "cpu"
    values = listener.values("openvis: camera")
    assert values["topic"] == rig.camera.topic_name
    assert float(values["rate out"].split()[0]) > 1 and (values["tracks"], values["dropped"]) == ("1", "0")
    assert 0 < float(values["latency"].split()[0]) < 2000
    assert {"time of wait", "time of decode", "time of publish"} <= set(values)
    assert listener.newest["openvis: camera"].level == DiagnosticStatus.OK
    rig.loader.engine.shortage = "memory of the device is short"
    rig.answer()
    wait_for(lambda: listener.newest["openvis: node"].level == DiagnosticStatus.WARN, what="the shortage")
    assert listener.newest["openvis: node"].message == "memory of the device is short"
    rig.loader.engine.shortage = ""
    wait_for(lambda: rig.said("is short"), what="the shortage in the log")
    assert rig.set("rate_error", 1000.0).successful
    wait_for(lambda: listener.newest["openvis: camera"].level == DiagnosticStatus.ERROR)
    assert "rate out" in listener.newest["openvis: camera"].message
    assert rig.transit(Transition.TRANSITION_DEACTIVATE)
    wait_for(
        lambda: "openvis: camera" not in listener.newest and listener.newest["openvis: node"].message == "inactive"
    )


def test_a_silent_camera_is_a_warning(start: Start, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from instformer_ros.nodes import monitor

    monkeypatch.setattr(monitor, "_START", 0.2)
    listener = Listener(world)
    start(**{"diagnostic_updater.period": 0.1})
    wait_for(lambda: "no image" in getattr(listener.newest.get("openvis: camera"), "message", ""), what="a warning")
    assert listener.newest["openvis: camera"].level == DiagnosticStatus.WARN


def test_the_status_by_service(start: Start) -> None:
    rig = start(vocabulary=["mug", "drill"])
    for _ in range(3):
        rig.answer()
    status = rig.world.call(GetStatus, "openvis/get_status", GetStatus.Request())
    assert (status.state, status.fault, status.model, status.words) == ("active", "", "toyvis", 2)
    assert status.device == "cpu" and status.vocabulary_version == 1 and status.memory > 10_000_000
    (camera,) = status.cameras
    assert (camera.name, camera.topic) == ("", rig.camera.topic_name)
    assert (camera.received, camera.answered, camera.tracks) == (3, 3, 1)
    assert len(camera.stages) == len(camera.stage_seconds) and "publish" in camera.stages
    assert rig.transit(Transition.TRANSITION_DEACTIVATE) and rig.transit(Transition.TRANSITION_CLEANUP)
    status = rig.world.call(GetStatus, "openvis/get_status", GetStatus.Request())
    assert status.state == "unconfigured" and not status.cameras and status.vocabulary_version == status.words == 0


def test_every_image_is_accounted_for_at_the_end(start: Start) -> None:
    rig = start(Loader(engine_arguments={"step_time": 0.5}))
    for _ in range(3):
        rig.camera.publish(rig.image())
        wait_for(lambda: rig.loader.engine.steps)
    wait_for(lambda: rig.node._facts().counts[""].received == 3, what="the images")
    assert rig.transit(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    wait_for(lambda: rig.said("in all: 3 received, 0 answered, 3 dropped"), what="the sum")


def test_tracks_are_forgotten_on_demand(start: Start) -> None:
    rig = start()
    assert [rig.answer().frame_index for _ in range(2)] == [0, 1]
    refused = rig.world.call(Reset, "openvis/reset", Reset.Request(camera="rear"))
    assert not refused.success and "'rear' is unknown" in refused.message
    assert rig.answer().frame_index == 2
    assert rig.world.call(Reset, "openvis/reset", Reset.Request()).success
    assert rig.answer().frame_index == 0


def test_deactivation_survives_a_slow_pass(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "_JOIN", 0.1)
    rig = start(Loader(engine_arguments={"step_time": 0.8}))
    engine = rig.loader.engine
    rig.camera.publish(rig.image())
    wait_for(lambda: engine.steps)
    assert rig.transit(Transition.TRANSITION_DEACTIVATE) and rig.state == "inactive"
    assert rig.transit(Transition.TRANSITION_CLEANUP) and rig.state == "unconfigured"
    wait_for(lambda: engine.closed, what="the engine's end, after the pass")
    assert rig.said("still under way") and not rig.said("Traceback") and not rig.answers


def test_a_worker_that_dies_is_an_error_with_its_reason(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline_module, "_HOPELESS", 5)
    rig = start()
    engine = rig.loader.engine
    engine.fault = RuntimeError("CUDA error: device lost")

    def publish_until_it_gives_up() -> bool:
        rig.camera.publish(rig.image())
        time.sleep(0.02)
        return rig.state == "unconfigured"

    wait_for(publish_until_it_gives_up, what="the fall back to unconfigured")
    wait_for(lambda: rig.said("unconfigured after RuntimeError: CUDA error: device lost"), what="the reason")
    wait_for(lambda: engine.closed)
    assert rig.said("to try again: 'ros2 lifecycle set")
    status = rig.world.call(GetStatus, "openvis/get_status", GetStatus.Request())
    assert status.state == "unconfigured" and status.fault == "RuntimeError: CUDA error: device lost"
    assert rig.transit(Transition.TRANSITION_CONFIGURE) and rig.transit(Transition.TRANSITION_ACTIVATE)
    wait_for(rig.camera.get_subscription_count)
    wait_for(lambda: rig.world.probe.count_publishers(f"{rig.world.namespace}/openvis/instances"))
    time.sleep(0.3)
    rig.answer()
    status = rig.world.call(GetStatus, "openvis/get_status", GetStatus.Request())
    assert (status.state, status.fault) == ("active", "")
