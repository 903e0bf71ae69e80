"""Parameters as a table: what each is for, what it may hold, when it may change, and why a value is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from instformer_ros.structures import InstformerError, printable

Value = bool | int | float | str | list[str]


class When(Enum):
    """When a parameter may change."""

    LIVE = "takes effect at once"
    CONFIGURE = "can change while the node is unconfigured; takes effect when it is configured"
    START = "read-only; given when the node starts"


@dataclass(frozen=True)
class Spec:
    """One parameter. ``least`` and ``most`` are the ends of its range, both allowed."""

    name: str
    default: Value
    description: str
    when: When = When.LIVE
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[Any], object] | None = None  # raises InstformerError with the reason for a refusal

    def descriptor(self) -> ParameterDescriptor:
        """What ``ros2 param describe`` shows."""
        descriptor = ParameterDescriptor(
            name=self.name,
            description=f"{self.description} ({self.when.value})",
            read_only=self.when is When.START,
            additional_constraints=f"one of: {', '.join(self.choices)}" if self.choices else "",
        )
        if self.least is not None and self.most is not None:
            if isinstance(self.default, float):
                range_ = FloatingPointRange(from_value=float(self.least), to_value=float(self.most))
                descriptor.floating_point_range = [range_]
            else:
                descriptor.integer_range = [IntegerRange(from_value=int(self.least), to_value=int(self.most))]
        return descriptor

    def adapted(self, parameter: Parameter[Any]) -> Parameter[Any]:
        """The same in the type that is meant, for what a shell writes otherwise: 1 for 1.0, [] for [''], "a, b"."""
        value = parameter.value
        meant: Value | None = None
        if isinstance(self.default, float) and parameter.type_ is Parameter.Type.INTEGER:
            meant = float(value)
        elif isinstance(self.default, list) and parameter.type_ is Parameter.Type.STRING:
            meant = [each.strip() for each in value.split(",")]
        elif isinstance(self.default, list) and isinstance(value, Sized) and not len(value):
            meant = [""]  # of an empty list nobody knows of what
        return parameter if meant is None else Parameter(parameter.name, value=meant)

    def refusal(self, value: Any, configured: bool) -> str | None:
        """Why ``value`` may not be set now, or None. Type, range and read-only are rclpy's to check, by descriptor."""
        if self.when is When.CONFIGURE and configured:
            return f"'{self.name}' can only change while the node is unconfigured: deactivate it and clean it up first"
        if self.choices and value not in self.choices:
            return printable(f"'{self.name}' is '{value:.40}': use one of {', '.join(self.choices)}")
        if self.check is not None:
            try:
                self.check(value)
            except InstformerError as error:
                return str(error)
        return None


class Table:
    """The parameters of a node."""

    def __init__(self, specs: Iterable[Spec]) -> None:
        self._specs = {spec.name: spec for spec in specs}

    def __iter__(self) -> Iterator[Spec]:
        return iter(self._specs.values())

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def declare(self, node: Node) -> None:
        """Declares all of them.

        Raises InstformerError, one line, if a value given on the command line or in a file does not suit.
        """
        for spec in self:
            try:
                parameter = node.declare_parameter(spec.name, spec.default, spec.descriptor())
                if parameter.value is None and isinstance(spec.default, list):  # what becomes of [] at the start
                    parameter = spec.adapted(Parameter(spec.name, Parameter.Type.STRING_ARRAY, []))
                    node.set_parameters([parameter])
                reason = spec.refusal(parameter.value, configured=False)
            except InvalidParameterTypeException:
                reason = f"'{spec.name}' has a value of the wrong type: write it like {spec.default!r}"
            except ParameterUninitializedException:
                reason = f"'{spec.name}' has no value: write it like {spec.default!r}"
            except InvalidParameterValueException:
                reason = f"'{spec.name}' is out of its range: use {spec.least:g} to {spec.most:g}"
            if reason is not None:
                raise InstformerError(f"parameter {reason}")

    def adapted(self, parameters: Iterable[Parameter[Any]]) -> list[Parameter[Any]]:
        """The same in the types that are meant (:meth:`Spec.adapted`); for the node's callback before setting."""
        return [self._specs[p.name].adapted(p) if p.name in self._specs else p for p in parameters]

    def refusal(self, parameters: Iterable[Parameter[Any]], configured: bool) -> str | None:
        """Why these may not be set now, or None; for the node's set callback."""
        for parameter in parameters:
            spec = self._specs.get(parameter.name)
            reason = spec.refusal(parameter.value, configured) if spec else None
            if reason is not None:
                return reason
        return None
