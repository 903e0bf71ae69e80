"""How long the openvis node takes to start and to end, as a process of its own:

    source scripts/env.sh && python benchmarks/start_stop.py --runs 10

A camera process publishes ToyVIS already. Start: from the node's process to its first InstanceArray, heard here. Stop:
from SIGINT, amid frames, to the end of the process, whose exit code must be 0.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time

import rclpy

from instformer_ros.msg import InstanceArray
from instformer_ros.ros import qos

_PATIENCE = 120.0  # seconds for anything


def measure(device: str) -> tuple[float, float]:
    """Seconds of one start and of one end."""
    context = rclpy.Context()
    rclpy.init(context=context)
    listener = rclpy.create_node("listener", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(listener)
    heard: list[float] = []
    listener.create_subscription(
        InstanceArray, "openvis/instances", lambda message: heard.append(time.monotonic()), qos.RESULTS
    )
    started = time.monotonic()
    command = [sys.executable, "-m", "instformer_ros.nodes.openvis", "--ros-args", "-p", f"device:={device}"]
    node = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while len(heard) < 3:
            executor.spin_once(0.05)
            if node.poll() is not None or time.monotonic() - started > _PATIENCE:
                raise SystemExit("error: the node gives no results")
        stopped = time.monotonic()
        node.send_signal(signal.SIGINT)
        _, errors = node.communicate(timeout=_PATIENCE)
        ended = time.monotonic()
        if node.returncode != 0 or "Traceback" in errors:
            raise SystemExit(f"error: the node ended with code {node.returncode}:\n{errors}")
    finally:
        node.kill()
        executor.shutdown()
        listener.destroy_node()
        context.try_shutdown()
    return heard[0] - started, ended - stopped


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    camera = subprocess.Popen(
        [
            sys.executable, "-m", "instformer_ros.nodes.camera", "--ros-args",
            "-p", "source:=toyvis:7", "-p", "loop:=true", "-p", "rate:=10.0",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(3.0)
        rows = [measure(options.device) for _ in range(options.runs)]
    finally:
        camera.send_signal(signal.SIGINT)
        camera.wait(_PATIENCE)
    load = os.getloadavg()[0]
    print(f"seconds, {options.runs} runs, {os.cpu_count()} cores, load {load:.1f}, device {options.device}")
    print(f"{'':<32}{'median':>8}{'least':>8}{'most':>8}")
    for name, values in zip(("process to first result", "SIGINT to exit"), zip(*rows, strict=True), strict=True):
        print(f"{name:<32}{statistics.median(values):>8.2f}{min(values):>8.2f}{max(values):>8.2f}")


if __name__ == "__main__":
    main()
