"""The soak's own node: what it hears goes to the checker, what it asks for is answered or is a fault."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from soak_checks import Checker, Result, Seen

from instformer_ros.msg import Instance, InstanceArray, Vocabulary
from instformer_ros.srv import Reset, SetVocabulary

_STATES = {Instance.STATE_NEW: "new", Instance.STATE_TRACKED: "tracked", Instance.STATE_COASTING: "coasting"}
_LATCHED = QoSProfile(depth=50, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Probe:
    """The soak's own node: hears results, changes words and parameters, drives the life cycle."""

    def __init__(self, checker: Checker) -> None:
        self.checker = checker
        self.active = False
        self.newest = time.monotonic()  # a result
        self.node = rclpy.create_node("soak")
        self.sleeper = rclpy.create_node("soak_sleeper")  # nobody spins it: its subscriptions are never read
        self._lock = threading.Lock()  # of the checker
        self.node.create_subscription(InstanceArray, "/openvis/instances", self._on_result, 50)
        self.node.create_subscription(Vocabulary, "/openvis/vocabulary", self._on_vocabulary, _LATCHED)
        self.words = self.node.create_publisher(Vocabulary, "vocabulary", _LATCHED)
        self.set_words = self.node.create_client(SetVocabulary, "/openvis/set_vocabulary")
        self.reset = self.node.create_client(Reset, "/openvis/reset")
        self._parameters = self.node.create_client(SetParametersAtomically, "/openvis/set_parameters_atomically")
        self._change = self.node.create_client(ChangeState, "/openvis/change_state")
        self._state = self.node.create_client(GetState, "/openvis/get_state")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        threading.Thread(target=self._spin, daemon=True).start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_result(self, message: InstanceArray) -> None:
        now = time.time()
        instances = tuple(
            Seen(i.track_id, _STATES.get(i.state, "terminated"), i.age, i.class_index, i.class_name)
            for i in message.instances
        )
        stamp = message.header.stamp.sec, message.header.stamp.nanosec
        result = Result(
            message.header.frame_id, stamp, message.height, message.width,
            message.vocabulary_version, message.frame_index, instances,
        )  # fmt: skip
        with self._lock:
            self.checker.result(result, now)
        self.newest = time.monotonic()

    def _on_vocabulary(self, message: Vocabulary) -> None:
        with self._lock:
            self.checker.vocabulary(message.version, message.names)

    def fault(self, kind: str, text: str) -> None:
        with self._lock:
            self.checker.fault(kind, text)

    def first_result(self, generation: int) -> tuple[float, float] | None:
        """See :attr:`Checker.first_results`; None as long as that camera is not answered."""
        with self._lock:
            return self.checker.first_results.get(generation)

    def call(self, client: Any, request: Any, timeout: float = 20.0) -> Any:
        """The service's answer, or None and a fault if there is none in time."""
        if not client.wait_for_service(timeout):
            self.fault("service", f"{client.srv_name} is not there")
            return None
        future = client.call_async(request)
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        if not done.wait(timeout):
            self.fault("service", f"{client.srv_name} did not answer within {timeout:.0f} s")
            return None
        return future.result()

    def set_parameter(self, name: str, value: Any) -> bool | None:
        """Whether the node took it."""
        request = SetParametersAtomically.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        answer = self.call(self._parameters, request)
        return None if answer is None else bool(answer.result.successful)

    def state(self) -> str:
        answer = self.call(self._state, GetState.Request())
        return "" if answer is None else str(answer.current_state.label)

    def transition(self, number: int) -> None:
        """One step of the life cycle; a step that fails is a fault."""
        with self._lock:
            self.checker.excuse_latency(time.time() + 5.0)
        answer = self.call(self._change, ChangeState.Request(transition=Transition(id=number)), 60.0)
        if answer is not None and not answer.success:
            self.fault("life cycle", f"transition {number} failed")
        self.newest = time.monotonic()
        with self._lock:
            self.checker.excuse_latency(time.time() + 1.0)

    def confirmed(self, version: int) -> None:
        with self._lock:
            self.checker.confirmed(version, time.time())

    def anew(self) -> None:
        with self._lock:
            self.checker.configured_anew()
