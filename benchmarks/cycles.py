"""Memory of the openvis node's process over life cycles, configured and cleaned up again and again:

    source scripts/env.sh && python benchmarks/cycles.py --cycles 40

Every cycle goes from unconfigured to active, waits for some results of a camera process and goes back; the image
transport changes from cycle to cycle. Looked at is RssAnon, the process's own memory, while it is unconfigured. Python
fills its last few heaps of 1 MiB over the first dozen cycles, so the second half of the cycles is held against the
first: by --growth it may grow. The growth since the third cycle is reported as well. Exit code 1 if it grows by more.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from soak_resources import memory

from instformer_ros.msg import InstanceArray
from instformer_ros.ros import qos

_PATIENCE = 120.0  # seconds for anything
_UP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
_DOWN = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP


class Driver:
    """A node in this process that takes the other through its life."""

    def __init__(self) -> None:
        self.heard = 0
        self._node = rclpy.create_node("cycles")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._node.create_subscription(InstanceArray, "openvis/instances", self._on_result, qos.RESULTS)
        self._change = self._node.create_client(ChangeState, "openvis/change_state")
        self._parameters = self._node.create_client(SetParametersAtomically, "openvis/set_parameters_atomically")

    def _on_result(self, message: InstanceArray) -> None:
        self.heard += 1

    def _call(self, client: Any, request: Any) -> Any:
        if not client.wait_for_service(_PATIENCE):
            raise SystemExit(f"error: {client.srv_name} is not there")
        future = client.call_async(request)
        self._executor.spin_until_future_complete(future, _PATIENCE)
        if future.result() is None:
            raise SystemExit(f"error: {client.srv_name} gives no answer")
        return future.result()

    def step(self, transition: int) -> None:
        """One transition; raises SystemExit if it fails."""
        if not self._call(self._change, ChangeState.Request(transition=Transition(id=transition))).success:
            raise SystemExit(f"error: transition {transition} failed")

    def set(self, name: str, value: Any) -> None:
        """Sets a parameter; raises SystemExit if it is refused."""
        request = SetParametersAtomically.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        result = self._call(self._parameters, request).result
        if not result.successful:
            raise SystemExit(f"error: {name} = {value!r}: {result.reason}")

    def listen(self, results: int) -> None:
        """Returns once so many more results have come."""
        wanted, deadline = self.heard + results, time.monotonic() + _PATIENCE
        while self.heard < wanted:
            self._executor.spin_once(0.1)
            if time.monotonic() > deadline:
                raise SystemExit("error: no results")


def cycle(node: subprocess.Popen[bytes], cycles: int, results: int, transports: list[str]) -> list[dict[str, int]]:
    """Memory after each cycle, see :func:`soak_resources.memory`."""
    driver = Driver()
    rows = []
    for n in range(cycles):
        driver.set("image_transport", transports[n % len(transports)])
        for transition in _UP:
            driver.step(transition)
        driver.listen(results)
        for transition in _DOWN:
            driver.step(transition)
        rows.append(memory(node.pid))
        print(n, {name: round(size / 1e6, 1) for name, size in rows[-1].items()}, file=sys.stderr, flush=True)
    return rows


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=40)
    parser.add_argument("--results", type=int, default=5, help="per cycle (0: no camera; default: %(default)s)")
    parser.add_argument("--transports", nargs="+", default=["raw", "compressed"])
    parser.add_argument("--growth", type=float, default=0.02, help="most (default: %(default)s)")
    parser.add_argument("--node", nargs="+", default=["-m", "instformer_ros.nodes.openvis"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ.setdefault(
        "FASTDDS_DEFAULT_PROFILES_FILE", str(Path(__file__).resolve().parents[1] / "config" / "fastdds.xml")
    )
    rclpy.init()
    log = subprocess.DEVNULL
    arguments = ["--ros-args", "-p", "autostart:=false", "-p", "report_interval:=0.0"]
    processes = [subprocess.Popen([sys.executable, *options.node, *arguments], stdout=log, stderr=log)]
    if options.results:
        camera = str(Path(__file__).with_name("soak_camera.py"))
        processes.append(subprocess.Popen([sys.executable, camera, "1", "10"], stdout=log, stderr=log))
    try:
        rows = cycle(processes[0], options.cycles, options.results, options.transports)
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGKILL if process is not processes[0] else signal.SIGINT)
            process.wait()
    sizes = [row["RssAnon"] for row in rows]
    growth = sizes[-1] / sizes[len(sizes) // 2] - 1
    report = {
        "cycles": len(rows),
        "RssAnon_MB": [round(size / 1e6, 1) for size in sizes],
        "growth_since_third": round(sizes[-1] / sizes[min(2, len(sizes) - 1)] - 1, 4),
        "growth_in_second_half": round(growth, 4),
    }
    print(json.dumps(report))
    return 1 if growth > options.growth else 0


if __name__ == "__main__":
    sys.exit(main())
