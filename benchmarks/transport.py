"""How many images of a camera arrive, and how late: with Fast DDS's defaults and as our launch and programs set it up.

    source scripts/env.sh && python benchmarks/transport.py --seconds 60 --rate 30 --size 1280x720

Camera and receiver are processes of their own. The receiver subscribes as the openvis node does: reliability `auto`,
one thread. *ours*: config/fastdds.xml, as launch sets it, and memory that is kept, as every program of ours does.
Delay: from the image's stamp, taken before its message is filled, to the receiver's callback.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

_PROFILE = Path(__file__).resolve().parent.parent / "config" / "fastdds.xml"
_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # Fast DDS 2, 3
_QUIET = 3.0  # seconds without an image after which the receiver takes the camera for ended
_KEEP = "TRANSPORT_KEEP_MEMORY"  # tells the two processes to do as our programs do
_START = 60.0  # seconds for the two to find each other


def send(frames: int, rate: float, size: str, reliability: str) -> None:
    """The camera: waits for its receiver, sends, and waits until all is acknowledged."""
    import rclpy
    from rclpy.duration import Duration
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from instformer_ros.ros.images import to_message
    from instformer_ros.ros.qos import image_qos, reliability_policy

    _keep_memory()

    width, height = (int(number) for number in size.split("x"))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rclpy.init()
    node = rclpy.create_node("camera")
    publisher = node.create_publisher(Image, "image", image_qos(reliability_policy(reliability), depth=10))
    deadline = time.monotonic() + _START
    while not publisher.get_subscription_count() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)  # for the receiver to suit us
    due = time.monotonic()
    for _ in range(frames):
        time.sleep(max(0.0, due - time.monotonic()))
        due += 1 / rate
        header = Header(stamp=node.get_clock().now().to_msg())
        publisher.publish(to_message(image, header))
    publisher.wait_for_all_acked(Duration(seconds=10))
    time.sleep(1.0)
    rclpy.try_shutdown()


def receive() -> None:
    """Prints what came, as JSON, once nothing comes any more."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.time import Time

    from instformer_ros.ros.images import from_message
    from instformer_ros.ros.qos import ImageSubscription

    _keep_memory()
    rclpy.init()
    node = rclpy.create_node("receiver")
    delays: list[float] = []
    last = time.monotonic() + _START

    def take(message: Any) -> None:
        nonlocal last
        last = time.monotonic() + _QUIET
        delays.append((node.get_clock().now() - Time.from_msg(message.header.stamp)).nanoseconds * 1e-6)
        from_message(message)

    subscription = ImageSubscription(node, "image", take)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while time.monotonic() < last:
        executor.spin_once(timeout_sec=0.1)
    median, p99, worst = np.percentile(delays, [50, 99, 100]).tolist() if delays else (None, None, None)
    result = {"received": len(delays), "median_ms": median, "p99_ms": p99, "worst_ms": worst}
    result["as"] = subscription.reliability.name
    print(json.dumps(result))
    rclpy.try_shutdown()


def _keep_memory() -> None:
    from instformer_ros.memory import keep_freed_memory

    if _KEEP in os.environ:
        keep_freed_memory()


def measure(arguments: argparse.Namespace, reliability: str, profile: Path | None) -> dict[str, Any]:
    """One cell of the table."""
    environment = {key: value for key, value in os.environ.items() if key not in _VARIABLES}
    environment["ROS_DOMAIN_ID"] = str(arguments.domain)
    environment.pop(_KEEP, None)
    if profile is not None:
        environment[_KEEP] = "1"
        old = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
        environment[_VARIABLES[0 if old else 1]] = str(profile)
    me = [sys.executable, __file__]
    receiver = subprocess.Popen([*me, "--role", "receive"], env=environment, stdout=subprocess.PIPE, text=True)
    options = ["--frames", str(_frames(arguments)), "--rate", str(arguments.rate), "--size", arguments.size]
    subprocess.run([*me, "--role", "send", "--reliability", reliability, *options], env=environment, check=True)
    output, _ = receiver.communicate(timeout=_START + 30)
    return {"camera": reliability, "transport": "ours" if profile else "defaults", **json.loads(output)}


def _frames(arguments: argparse.Namespace) -> int:
    """Images of a cell."""
    return round(arguments.seconds * arguments.rate)


def main() -> int:
    """Measures the four cells and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="that each cell lasts")
    parser.add_argument("--frames", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, default=30.0, help="images a second")
    parser.add_argument("--size", default="1280x720", help="WIDTHxHEIGHT of the images (rgb8)")
    parser.add_argument("--domain", type=int, default=93, help="ROS_DOMAIN_ID to use")
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--role", choices=("send", "receive"), help=argparse.SUPPRESS)
    parser.add_argument("--reliability", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role == "send":
        send(arguments.frames, arguments.rate, arguments.size, arguments.reliability)
        return 0
    if arguments.role == "receive":
        receive()
        return 0
    results = []
    print(f"{_frames(arguments)} images of {arguments.size} rgb8 at {arguments.rate:g} Hz")
    print(f"{'camera':<12} {'transport':<10} {'received':>8} {'median ms':>10} {'p99 ms':>8} {'worst ms':>9}  as")
    for profile in (None, _PROFILE):
        for reliability in ("reliable", "best_effort"):
            cell = measure(arguments, reliability, profile)
            results.append(cell)
            keys = ("median_ms", "p99_ms", "worst_ms")
            median, p99, worst = (f"{cell[k]:.1f}" if cell[k] is not None else "-" for k in keys)
            row = f"{cell['camera']:<12} {cell['transport']:<10} {cell['received']:>8} {median:>10} {p99:>8} {worst:>9}"
            print(f"{row}  {cell['as'].lower()}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
