"""Generated messages and service calls to a running openvis node, over DDS: what ``fuzz.py node`` does.

Half of the messages go to a node that takes raw images, half to one that takes compressed ones. Some are valid messages
with odd fields, some are damaged on the wire, as a broken peer would send them. Every few messages a good image has to
be answered. A node that has died is a fault and is started again.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from fuzz_cases import damage, packed_fields, packed_images, raw_fields, text
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters, SetParametersAtomically
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image
from soak_processes import keep_apart
from soak_resources import memory
from std_msgs.msg import Header

from instformer_ros.model.vocabulary import MAX_WORDS
from instformer_ros.msg import InstanceArray, Vocabulary
from instformer_ros.nodes.openvis_parameters import PARAMETERS
from instformer_ros.ros import qos
from instformer_ros.ros.images import to_message
from instformer_ros.srv import Reset, SetVocabulary

_EVERY = 25  # messages between two good images
_PATIENCE = 20.0  # seconds for a good image to be answered on a busy machine
_CALL = 5.0  # seconds for an answer of a service
_PAUSE = 0.02  # seconds after a message: the newest image wins, and each shall be looked at
_PICTURE = np.full((192, 256, 3), 90, np.uint8)
_NAMES = tuple(spec.name for spec in PARAMETERS if spec.name not in ("autostart",))


class Dead(Exception):
    """The node has ended."""


def words(rng: random.Random) -> list[str]:
    """As a message can hold them; now and then too many, or one of a megabyte."""
    many = rng.choice((0, 1, 3, 10)) if rng.random() < 0.97 else MAX_WORDS + 1
    names = [valid(text(rng, 20)) for _ in range(many)]
    return [*names, "y" * 10**6] if rng.random() < 0.02 else names


def valid(name: str) -> str:
    """Without halves of surrogate pairs, which no string of a message holds."""
    return name.encode("utf-8", "replace").decode()


def parameter(rng: random.Random) -> Parameter:
    """A name that mostly is one of ours, and a value of whatever type, which may be none at all."""
    value = ParameterValue(
        type=rng.choice((*range(11), rng.randrange(256))),
        bool_value=rng.random() < 0.5,
        integer_value=rng.choice((0, 1, -1, 2**63 - 1, -(2**63), rng.randrange(10**6))),
        double_value=rng.choice((0.0, 0.5, -1.0, 1e308, float("nan"), float("inf"), rng.uniform(-2, 2))),
        string_value=valid(text(rng)),
        string_array_value=words(rng),
        byte_array_value=[bytes([rng.randrange(256)])],
        double_array_value=[rng.random()],
    )
    return Parameter(name=rng.choice((*_NAMES, *_NAMES, valid(text(rng)))), value=value)


class Fuzzer:
    """The node's process, and everything that talks to it."""

    def __init__(self, transport: str, log: Any) -> None:
        self.transport, self._log = transport, log
        self._answered: set[str] = set()
        self._node = rclpy.create_node("fuzz")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        reliable = qos.image_qos(qos.reliability_policy("reliable"), depth=5)
        kind, topic = (Image, "image") if transport == "raw" else (CompressedImage, "image/compressed")
        self._image = self._node.create_publisher(kind, topic, reliable)
        self._words = self._node.create_publisher(Vocabulary, "vocabulary", 10)
        self._node.create_subscription(InstanceArray, "openvis/instances", self._on_result, qos.RESULTS)
        services: dict[str, tuple[Any, str]] = {
            "set": (SetParameters, "set_parameters"),
            "atomic": (SetParametersAtomically, "set_parameters_atomically"),
            "get": (GetParameters, "get_parameters"),
            "describe": (DescribeParameters, "describe_parameters"),
            "list": (ListParameters, "list_parameters"),
            "words": (SetVocabulary, "set_vocabulary"),
            "reset": (Reset, "reset"),
            "change": (ChangeState, "change_state"),
            "state": (GetState, "get_state"),
        }
        self._clients = {name: self._node.create_client(kind, f"openvis/{s}") for name, (kind, s) in services.items()}
        self._good = packed_images()
        self.peak = 0
        self.process = self._start()

    def _on_result(self, message: InstanceArray) -> None:
        self._answered.add(message.header.frame_id)

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = ["--ros-args", "-p", f"image_transport:={self.transport}", "-p", "report_interval:=0.0"]
        command = [sys.executable, "-m", "instformer_ros.nodes.openvis", *arguments]
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        deadline = time.monotonic() + 120
        while (answer := self.call("state", GetState.Request())) is None or answer.current_state.label != "active":
            if time.monotonic() > deadline:
                raise SystemExit("error: the node does not start")
        return self.process

    def restart(self) -> None:
        """After it has died, or hangs."""
        self.process.kill()
        self.process.wait()
        self._start()

    def end(self) -> int:
        """Ends the node; its exit code, which is 0 for a node that still heeds a signal."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            self._executor.shutdown()
            self._node.destroy_node()

    def spin(self, seconds: float) -> None:
        """Hears what comes. Raises Dead."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._executor.spin_once(left)
        if self.process.poll() is not None:
            raise Dead(f"code {self.process.returncode}")

    def call(self, service: str, request: Any) -> Any:
        """The answer, None if there is none in time. Raises Dead."""
        client = self._clients[service]
        future = client.call_async(request)
        deadline = time.monotonic() + _CALL
        while not future.done() and time.monotonic() < deadline:
            self.spin(0.005)
        if not future.done():
            client.remove_pending_request(future)
            return None
        return future.result()

    def good_image_is_answered(self, number: int) -> bool:
        """Sends good images until one is answered; False if none is. Raises Dead."""
        deadline = time.monotonic() + _PATIENCE
        mark = f"good {number} "
        while time.monotonic() < deadline:
            header = Header(frame_id=f"{mark}{time.monotonic()}")
            message = to_message(_PICTURE, header)
            if self.transport != "raw":
                message = CompressedImage(header=header, format="jpeg", data=self._good[0])
            self._image.publish(message)
            self.spin(0.2)
            if any(name.startswith(mark) for name in self._answered):
                self._answered.clear()
                self.peak = max(self.peak, sum(memory(self.process.pid).values()))
                return True
        return False

    # --- Kinds: each sends one message and says how it was taken ------------------------------------------------------

    def image(self, rng: random.Random) -> str:
        """An image message with odd fields."""
        self._image.publish(self._odd_image(rng))
        return "sent"

    def image_on_the_wire(self, rng: random.Random) -> str:
        """The bytes of such a message, damaged."""
        self._image.publish(damage(rng, serialize_message(self._odd_image(rng))))
        return "sent"

    def _odd_image(self, rng: random.Random) -> Image | CompressedImage:
        header = Header(frame_id=valid(text(rng)))
        header.stamp.sec = rng.choice((0, 1, -(2**31), 2**31 - 1))
        header.stamp.nanosec = rng.choice((0, 1, 999_999_999, 2**32 - 1))
        if self.transport == "raw":
            encoding, height, width, step, big, data = raw_fields(rng)
            message = Image(header=header, encoding=valid(encoding), height=height, width=width, step=step)
            message.is_bigendian, message.data = big, data
            return message
        form, data = packed_fields(rng, self._good)
        return CompressedImage(header=header, format=valid(form), data=data)

    def words_by_topic(self, rng: random.Random) -> str:
        """A vocabulary message, half of them damaged on the wire."""
        message = Vocabulary(version=rng.choice((0, 1, 2**32 - 1)), names=words(rng))
        self._words.publish(damage(rng, serialize_message(message)) if rng.random() < 0.5 else message)
        return "sent"

    def words_by_service(self, rng: random.Random) -> str:
        """A call of ~/set_vocabulary."""
        answer = self.call("words", SetVocabulary.Request(names=words(rng)))
        return "unanswered" if answer is None else "accepted" if answer.success else "refused"

    def parameters(self, rng: random.Random) -> str:
        """Parameters set one by one, or all at once."""
        request = SetParameters.Request(parameters=[parameter(rng) for _ in range(rng.randrange(4))])
        if rng.random() < 0.5:
            answer = self.call("set", request)
            results = [] if answer is None else list(answer.results)
        else:
            answer = self.call("atomic", SetParametersAtomically.Request(parameters=request.parameters))
            results = [] if answer is None else [answer.result]
        return "unanswered" if answer is None else "accepted" if all(r.successful for r in results) else "refused"

    def other_services(self, rng: random.Random) -> str:
        """Questions for parameters, resets of cameras and steps of the life cycle that there are not."""
        names = [parameter(rng).name for _ in range(3)]
        depth = rng.choice((0, 1, 2**64 - 1))
        requests: dict[str, Any] = {
            "get": GetParameters.Request(names=names),
            "describe": DescribeParameters.Request(names=names),
            "list": ListParameters.Request(prefixes=names, depth=depth),
            "reset": Reset.Request(camera=names[0]),
            "change": ChangeState.Request(transition=Transition(id=rng.choice((1, 3, 9, 100, 255)))),
        }
        service = rng.choice(list(requests))
        return "unanswered" if self.call(service, requests[service]) is None else "answered"


_KINDS: dict[str, Callable[[Fuzzer, random.Random], str]] = {
    "image": Fuzzer.image,
    "image_on_the_wire": Fuzzer.image_on_the_wire,
    "words_by_topic": Fuzzer.words_by_topic,
    "words_by_service": Fuzzer.words_by_service,
    "parameters": Fuzzer.parameters,
    "other_services": Fuzzer.other_services,
}


def run(count: int, seed: int) -> dict[str, Any]:
    """``count`` messages, the kinds in turn, to a node of each image transport."""
    keep_apart()
    log_file = Path(tempfile.mkdtemp(prefix="fuzz_")) / "node.log"
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in _KINDS}
    faults: list[str] = []
    started, peak = time.monotonic(), 0
    rclpy.init()
    with log_file.open("wb") as log:
        for half, transport in enumerate(("raw", "compressed")):
            fuzzer = Fuzzer(transport, log)
            fuzzer.good_image_is_answered(-1)
            for number in range(half, count, 2):
                kind = list(_KINDS)[number // 2 % len(_KINDS)]
                try:
                    outcomes[kind][_KINDS[kind](fuzzer, random.Random(f"{seed} {kind} {number}"))] += 1
                    fuzzer.spin(_PAUSE)
                    last = number + 2 >= count
                    if (last or number // 2 % _EVERY == 0) and not fuzzer.good_image_is_answered(number):
                        faults.append(f"{kind}:{number} or one before it: a good image is not answered ({transport})")
                        fuzzer.restart()
                except Dead as death:
                    faults.append(f"{kind}:{number} ended the node ({transport}), {death}")
                    fuzzer.restart()
            if code := fuzzer.end():
                faults.append(f"the node ended with code {code}")
            peak = max(peak, fuzzer.peak)
    rclpy.shutdown()
    lines = log_file.read_text(errors="replace").splitlines()
    faults += [" | ".join(lines[n : n + 30])[-600:] for n, line in enumerate(lines) if line.startswith("Traceback")]
    return {
        "cases": count,
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
        "peak_MiB": peak >> 20,
        "outcomes": {kind: dict(counter) for kind, counter in outcomes.items()},
        "faults": faults,
        "log": str(log_file),
    }
