"""A small ROS of a test's own: a DDS domain, a namespace, and nodes that spin in threads."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

_numbers = itertools.count()
T = TypeVar("T")


class World:
    """A ROS context with the node under test and a probe node beside it, each spun by a thread of its own."""

    def __init__(self) -> None:
        number = next(_numbers)
        self.namespace = f"/test_{os.getpid()}_{number}"
        self.context = rclpy.Context()
        # Domains above 101 need ports that the system hands out to others.
        rclpy.init(context=self.context, domain_id=1 + (os.getpid() + number) % 100)
        self._closers: list[Callable[[], Any]] = []
        self.probe = rclpy.create_node("probe", context=self.context, namespace=self.namespace)
        self.spin(self.probe)

    @property
    def node_arguments(self) -> dict[str, Any]:
        return {"context": self.context, "namespace": self.namespace}

    def spin(self, node: Any) -> None:
        """Spins a node until the world ends."""
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(node)

        def work() -> None:
            with contextlib.suppress(ExternalShutdownException):
                executor.spin()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()

        def close() -> None:
            executor.shutdown()
            thread.join(10.0)
            assert not thread.is_alive(), "an executor does not end"
            node.destroy_node()

        self._closers.append(close)

    def close(self) -> None:
        while self._closers:
            self._closers.pop()()
        self.context.try_shutdown()

    def call(self, service: Any, name: str, request: Any, timeout: float = 20.0) -> Any:
        """Calls a service (a name in the namespace) and returns its response."""
        client = self.probe.create_client(service, f"{self.namespace}/{name}")
        assert client.wait_for_service(timeout), f"no service {name}"
        future = client.call_async(request)
        wait_for(future.done, timeout, f"the answer of {name}")
        return future.result()


def wait_for(condition: Callable[[], T], timeout: float = 20.0, what: str = "") -> T:
    """Waits until the condition gives something true, and returns that."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout:g} s in vain for {what or condition}"
        time.sleep(0.005)
    return value
