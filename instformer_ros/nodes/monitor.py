"""How the node is doing: on ``/diagnostics``, by the service ``~/get_status`` and in the log."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.timer import Timer

from instformer_ros.msg import CameraStatus
from instformer_ros.nodes.inputs import CameraInput
from instformer_ros.nodes.protocols import Counts
from instformer_ros.nodes.run import parting_logger
from instformer_ros.nodes.statistics import Statistics, Summary
from instformer_ros.ros.diagnostics import Diagnostics, Level, Report
from instformer_ros.srv import GetStatus
from instformer_ros.structures import Vocabulary

_MEBI = 2**20
_START = 2.0  # seconds that a camera has for its first image


@dataclass(frozen=True)
class Facts:
    """What only the node knows of itself."""

    state: str
    fault: str  # why it could not be configured, or fell back to unconfigured; "" if neither
    vocabulary: Vocabulary
    counts: dict[str, Counts]  # by camera
    device: str  # where the model runs; "" while there is none
    device_memory: int  # bytes
    shortage: str  # what is done for want of memory; "" for nothing


@dataclass
class _Watched:
    input: CameraInput
    statistics: Statistics
    reported: Counts
    silent: bool = False  # it has been said that no image comes


@dataclass(frozen=True)
class Thresholds:
    """From which on things are worth a warning or an error; parameters of the same names."""

    latency_warn: float = 1.0  # seconds, median
    latency_error: float = 5.0
    rate_warn: float = 0.0  # Hz out
    rate_error: float = 0.0
    drop_warn: float = 1.0  # share of the images that get no answer
    drop_error: float = 1.0


THRESHOLDS = tuple(each.name for each in fields(Thresholds))


class Monitor:
    """Watches the cameras of an active node. All of it happens in the executor's thread."""

    def __init__(self, node: Node, facts: Callable[[], Facts], thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self._node = node
        self._facts = facts
        self._cameras: dict[str, _Watched] = {}
        self._timer: Timer | None = None
        self._diagnostics = Diagnostics(node, "none")
        self._diagnostics.add("node", self._diagnose_node)
        node.create_service(GetStatus, "~/get_status", self._serve)

    def watch(self, camera: str, camera_input: CameraInput, statistics: Statistics) -> None:
        """Watches one more camera."""
        counts = self._facts().counts.get(camera, Counts())
        self._cameras[camera] = _Watched(camera_input, statistics, counts)
        self._diagnostics.add(_task(camera), partial(self._diagnose, camera))

    def close(self) -> None:
        """Watches no camera any more, and says what became of their images."""
        self._stop_reports()
        counts = self._facts().counts
        for name, camera in self._cameras.items():
            parting_logger(self._node).info(f"'{camera.input.topic_name}' in all: {counts.get(name, Counts())}")
            self._diagnostics.remove(_task(name))
        self._cameras.clear()

    # --- The log ------------------------------------------------------------------------------------------------------

    def report_every(self, seconds: float) -> None:
        """Logs what became of the images at this interval; 0 for never."""
        self._stop_reports()
        if seconds > 0 and self._cameras:
            report = partial(self._report, seconds)
            self._timer = self._node.create_timer(seconds, report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _stop_reports(self) -> None:
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None

    def _report(self, seconds: float) -> None:
        """Says what is worth saying; a camera that stays silent is named once, and once more when it is back."""
        counts = self._facts().counts
        for name, camera in self._cameras.items():
            now, topic = counts.get(name, Counts()), camera.input.topic_name
            news, camera.reported = now - camera.reported, now
            silent = news.received == 0
            if silent and not camera.silent:
                self._node.get_logger().warning(
                    f"no image on '{topic}' ({camera.input.publishers} publishers): is the camera running, and is "
                    "the topic remapped to it?"
                )
            elif camera.silent and not silent:
                self._node.get_logger().info(f"images on '{topic}' again")
            if news.received > news.answered + 3:  # so many may be under way
                self._node.get_logger().info(f"'{topic}': {news} in {seconds:g} s")
            camera.silent = silent

    # --- Diagnostics --------------------------------------------------------------------------------------------------

    def _diagnose_node(self) -> Report:
        facts = self._facts()
        report = Report(
            message=facts.state,
            values={
                "state": facts.state,
                "vocabulary version": str(facts.vocabulary.version),
                "words": str(len(facts.vocabulary.names)),
                "memory": f"{_resident() / _MEBI:.0f} MiB",
                "device": facts.device or "none",
                "GPU memory": f"{facts.device_memory / _MEBI:.0f} MiB",
            },
        )
        if facts.shortage:
            report.worsen(Level.WARN, facts.shortage)
        if facts.fault:
            report.worsen(Level.ERROR, facts.fault)
        return report

    def _diagnose(self, camera: str) -> Report:
        """Of one camera."""
        watched, counts = self._cameras[camera], self._facts().counts.get(camera, Counts())
        now, limits = watched.statistics.summary(), self.thresholds
        report = Report(
            values={
                "topic": watched.input.topic_name,
                "rate in": f"{now.rate_in:.1f} Hz",
                "rate out": f"{now.rate_out:.1f} Hz",
                "latency": f"{1000 * now.latency:.1f} ms",
                "greatest latency": f"{1000 * now.latency_max:.1f} ms",
                **{f"time of {stage}": f"{1000 * seconds:.2f} ms" for stage, seconds in now.stages.items()},
                "tracks": str(now.tracks),
                **{each.name: str(getattr(counts, each.name)) for each in fields(counts)},
            }
        )
        if now.rate_in == 0 and now.silence > _START:
            report.worsen(Level.WARN, f"no image for {now.silence:.0f} s")
        report.below("rate out", now.rate_out, limits.rate_warn, limits.rate_error, " Hz")
        report.above("latency", now.latency, limits.latency_warn, limits.latency_error, " s")
        report.above("share without an answer", _unanswered(now), limits.drop_warn, limits.drop_error)
        return report

    # --- The service --------------------------------------------------------------------------------------------------

    def _serve(self, request: GetStatus.Request, response: GetStatus.Response) -> GetStatus.Response:
        facts = self._facts()
        response.state, response.fault = facts.state, facts.fault
        response.model = self._node.get_parameter("model").value
        response.device = facts.device
        response.vocabulary_version = facts.vocabulary.version
        response.words = len(facts.vocabulary.names)
        response.memory, response.device_memory = _resident(), facts.device_memory
        response.cameras = [
            _status(name, camera, facts.counts.get(name, Counts())) for name, camera in self._cameras.items()
        ]
        return response


def _status(name: str, camera: _Watched, counts: Counts) -> CameraStatus:
    now = camera.statistics.summary()
    return CameraStatus(
        name=name,
        topic=camera.input.topic_name,
        rate_in=now.rate_in,
        rate_out=now.rate_out,
        latency=now.latency,
        latency_max=now.latency_max,
        stages=list(now.stages),
        stage_seconds=list(now.stages.values()),
        tracks=now.tracks,
        **{each.name: getattr(counts, each.name) for each in fields(counts)},
    )


def _task(camera: str) -> str:
    return f"camera {camera}" if camera else "camera"


def _unanswered(now: Summary) -> float:
    return max(0.0, 1.0 - now.rate_out / now.rate_in) if now.rate_in else 0.0


def _resident() -> int:
    """Bytes of this process in RAM; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
