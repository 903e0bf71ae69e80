"""Reports on ``/diagnostics``: by diagnostic_updater where it is installed, else the same messages without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.exceptions import ParameterException
from rclpy.node import Node

from instformer_ros.structures import InstformerError

try:
    from diagnostic_updater import Updater
except ImportError:  # not among the ROS packages of PyPI
    Updater = None


class Level(Enum):
    """How bad it is."""

    OK = DiagnosticStatus.OK
    WARN = DiagnosticStatus.WARN
    ERROR = DiagnosticStatus.ERROR


@dataclass
class Report:
    """The state of one thing: the worst that was found, and what it was found from."""

    level: Level = Level.OK
    message: str = "ok"
    values: Mapping[str, str] = field(default_factory=dict)

    def worsen(self, level: Level, message: str) -> None:
        """Adds a finding."""
        found = [message] if self.level is Level.OK else [self.message, message]
        self.message = "; ".join(found)
        self.level = max(self.level, level, key=lambda each: each.value)

    def above(self, what: str, value: float, warn: float, error: float, unit: str = "") -> None:
        """A finding if ``value`` exceeds a threshold."""
        for level, threshold in ((Level.ERROR, error), (Level.WARN, warn)):
            if value > threshold:
                self.worsen(level, f"{what} is {value:.3g}{unit}, above {threshold:g}{unit}")
                return

    def below(self, what: str, value: float, warn: float, error: float, unit: str = "") -> None:
        """A finding if ``value`` falls short of a threshold."""
        for level, threshold in ((Level.ERROR, error), (Level.WARN, warn)):
            if value < threshold:
                self.worsen(level, f"{what} is {value:.3g}{unit}, below {threshold:g}{unit}")
                return


Task = Callable[[], Report]


class Diagnostics:
    """Publishes the reports of some tasks at the period of the parameter ``diagnostic_updater.period``."""

    def __init__(self, node: Node, hardware: str) -> None:
        """``hardware``: the hardware_id of all reports. Raises InstformerError: the period is no good."""
        try:
            self._updater = (Updater or _Updater)(node)
        except (ParameterException, RuntimeError, ValueError) as error:
            raise InstformerError(
                f"parameter 'diagnostic_updater.period': {' '.join(str(error).split())}; give seconds, such as 1.0"
            ) from error
        self._updater.setHardwareID(hardware)

    def add(self, name: str, task: Task) -> None:
        """Reports what ``task`` finds, as ``<node>: <name>``."""
        self._updater.add(name, lambda status: _fill(status, task()))

    def remove(self, name: str) -> None:
        """Ends the reports of a task."""
        self._updater.removeByName(name)


def _fill(status: Any, report: Report) -> Any:
    status.level, status.message = report.level.value, report.message
    status.values = [KeyValue(key=key, value=value) for key, value in report.values.items()]
    return status


class _Updater:
    """What of diagnostic_updater.Updater is used here."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tasks: dict[str, Callable[[Any], Any]] = {}
        self._hardware = ""
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 1)
        period = node.declare_parameter("diagnostic_updater.period", 1.0).value
        full_name = node.declare_parameter("diagnostic_updater.use_fqn", False).value
        self._name = node.get_fully_qualified_name() if full_name else node.get_name()
        node.create_timer(period, self._update)

    def setHardwareID(self, hardware: str) -> None:
        self._hardware = hardware

    def add(self, name: str, fill: Callable[[Any], Any]) -> None:
        self._tasks[name] = fill

    def removeByName(self, name: str) -> None:
        self._tasks.pop(name, None)

    def _update(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        for name, fill in self._tasks.items():
            message.status.append(fill(DiagnosticStatus(name=f"{self._name}: {name}", hardware_id=self._hardware)))
        self._publisher.publish(message)
