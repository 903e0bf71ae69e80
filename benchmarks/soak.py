"""A long, hostile run of the openvis node, checked all along:

    source scripts/env.sh && python benchmarks/soak.py --minutes 30

A camera process sends images of changing size and encoding, broken ones among them, with stamps and a /clock that jump;
it is killed and started again, and at times there are two. Words change every second, parameters at random (bad values
too), subscribers come and go, one of them never reads, and the node is taken through its life cycle. Checked are: every
result's header belongs to one good image; names and vocabulary versions agree; IDs are unique, age by one and never
come back; latency; silence; memory, threads and open files; tracebacks in the node's log; the way it ends.
Exit code 0 if nothing was wrong. ``--plant BUG`` runs a node with a bug in it, which must end with code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from soak_checks import Checker, Result, Seen
from soak_node import BUGS

from instformer_ros.data.toyvis import ALL_NAMES
from instformer_ros.msg import Instance, InstanceArray, Vocabulary
from instformer_ros.srv import Reset, SetVocabulary

_HERE = Path(__file__).resolve().parent
_STATES = {Instance.STATE_NEW: "new", Instance.STATE_TRACKED: "tracked", Instance.STATE_COASTING: "coasting"}
_LATCHED = QoSProfile(depth=50, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_SILENCE = 5.0  # seconds without a result, with the node active and a camera at work, that are a fault
_RECOVERY = 2.0  # seconds from a new camera's start of sending to the first result: more is a fault
_PARAMETERS: dict[str, tuple[Any, ...]] = {  # good values, then bad ones
    "score_threshold": (0.05, 0.1, 0.3),
    "objectness_threshold": (0.5, 0.7),
    "duplicate_threshold": (0.3, 0.7, 1.0),
    "max_coast": (5, 30),
    "max_instances": (3, 100),
    "class_scores": (True, False),
    "negatives": (True, False),
    "publish_masks": (True, False),
    "overlay_opacity": (0.2, 0.9),
}
_BAD = (
    ("score_threshold", 7.0),
    ("max_coast", -1),
    ("life_cycle", "never"),
    ("max_instances", 0),
    ("match_threshold", "x"),
)


class Probe:
    """The soak's own node: hears results, changes words and parameters, drives the life cycle."""

    def __init__(self, checker: Checker) -> None:
        self.checker = checker
        self.active = False
        self.newest = time.monotonic()  # a result
        self.generations: dict[int, float] = {}  # camera generation: when its first result came
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
        generation = message.header.frame_id.partition("/")[0]
        if generation.isdecimal():
            self.generations.setdefault(int(generation), self.newest)

    def _on_vocabulary(self, message: Vocabulary) -> None:
        with self._lock:
            self.checker.vocabulary(message.version, message.names)

    def fault(self, kind: str, text: str) -> None:
        with self._lock:
            self.checker.fault(kind, text)

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
            self.checker.new_session()


class Camera:
    """One camera process at a time, or two."""

    def __init__(self, rate: float, log: Any) -> None:
        self._rate, self._log = rate, log
        self._generation = 0
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> int:
        self._generation += 1
        command = [sys.executable, str(_HERE / "soak_camera.py"), str(self._generation), str(self._rate)]
        self._processes[self._generation] = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        return self._generation

    def kill(self, generation: int | None = None) -> None:
        """With SIGKILL; all of them unless one is named."""
        for each in [generation] if generation is not None else list(self._processes):
            process = self._processes.pop(each)
            process.kill()
            process.wait()


class Resources:
    """Memory, threads and open files of a process, every two seconds."""

    def __init__(self, pid: int) -> None:
        self._folder = Path("/proc") / str(pid)
        self.rows: list[tuple[float, int, int, int]] = []  # seconds, bytes, threads, files
        self._started = time.monotonic()

    def sample(self) -> None:
        try:
            pages = int((self._folder / "statm").read_text().split()[1])
            threads, files = len(list((self._folder / "task").iterdir())), len(list((self._folder / "fd").iterdir()))
        except (OSError, IndexError, ValueError):
            return  # it has ended, which is noticed elsewhere
        self.rows.append((time.monotonic() - self._started, pages * os.sysconf("SC_PAGE_SIZE"), threads, files))

    def growth(self, settled: float) -> dict[str, float]:
        """Medians after ``settled`` seconds against those of the end: memory as a ratio - 1, the others as counts."""
        table = np.array(self.rows)
        window = max(10.0, (table[-1, 0] - settled) / 6)
        first = table[(table[:, 0] >= settled) & (table[:, 0] < settled + window)]
        last = table[table[:, 0] >= table[-1, 0] - window]
        a, b = np.median(first, 0), np.median(last, 0)
        return {
            "memory_MB": round(b[1] / 1e6, 1),
            "memory_growth": round(b[1] / a[1] - 1, 4),
            "threads_growth": float(b[2] - a[2]),
            "files_growth": float(b[3] - a[3]),
        }


class Soak:
    """The events of one run, drawn from a seed."""

    def __init__(
        self, probe: Probe, camera: Camera, node: subprocess.Popen[bytes], resources: Resources, seed: int
    ) -> None:
        self._probe, self._camera, self._node, self._resources = probe, camera, node, resources
        self._random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.recoveries: list[float] = []
        self._second: tuple[int, float] | None = None  # another camera, until then
        self._views: list[tuple[Any, Any, float]] = []  # node and subscription, until then
        self._current = 0

    def run(self, seconds: float, transitions: bool) -> None:
        """Until the time is over or the node has died."""
        every: list[tuple[float, Any]] = [
            (1.0, self._words), (3.0, self._parameter), (2.0, self._resources.sample), (7.0, self._view),
            (25.0, self._reset), (20.0, self._kill_camera), (33.0, self._second_camera),
        ]  # fmt: skip
        if transitions:
            every += [(45.0, self._pause), (170.0, self._configure_anew)]
        started = time.monotonic()
        due = [started + period * (1 + 0.1 * n) for n, (period, _) in enumerate(every)]
        self._current = self._camera.start()
        self._probe.newest = time.monotonic() + 5.0  # for the camera to come up
        while time.monotonic() - started < seconds:
            if self._node.poll() is not None:
                self._probe.fault("crash", f"the node ended with code {self._node.returncode}")
                return
            for n, (period, event) in enumerate(every):
                if time.monotonic() >= due[n]:
                    due[n] = time.monotonic() + period
                    event()
            self._tidy()
            if time.monotonic() - self._probe.newest > _SILENCE:
                self._probe.fault("silence", f"no result for {_SILENCE} s; the node is {self._probe.state()}")
                self._probe.newest = time.monotonic() + 10.0
            time.sleep(0.05)

    def _words(self) -> None:
        count = self._random.choice([0, 1, 1, 3, 8])
        names = self._random.sample(ALL_NAMES, count)
        if self._random.random() < 0.1:
            names = [*names, "x" * 300]  # refused
        if self._random.random() < 0.5:
            self.done["words by topic"] += 1
            self._probe.words.publish(Vocabulary(names=names))
            return
        self.done["words by service"] += 1
        answer = self._probe.call(self._probe.set_words, SetVocabulary.Request(names=names))
        if answer is not None:
            if answer.success == ("x" * 300 in names):
                self._probe.fault("vocabulary", f"{len(names)} words: {answer.message}")
            self._probe.confirmed(answer.version)

    def _parameter(self) -> None:
        if self._random.random() < 0.25:
            name, value = self._random.choice(_BAD)
            self.done["bad parameters"] += 1
            if self._probe.set_parameter(name, value):
                self._probe.fault("parameter", f"{name} = {value!r} was taken")
            return
        name = self._random.choice(list(_PARAMETERS))
        self.done["parameters"] += 1
        if self._probe.set_parameter(name, self._random.choice(_PARAMETERS[name])) is False:
            self._probe.fault("parameter", f"a good value of {name} was refused")

    def _view(self) -> None:
        """Somebody looks for a few seconds; now and then one who asks for every result and reads none."""
        self.done["subscribers"] += 1
        kind, topic = self._random.choice([(Image, "/openvis/overlay"), (InstanceArray, "/openvis/instances")])
        node = self._probe.sleeper if self._random.random() < 0.3 else self._probe.node
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        subscription = node.create_subscription(kind, topic, lambda message: None, qos)
        self._views.append((node, subscription, time.monotonic() + 4))

    def _reset(self) -> None:
        self.done["resets"] += 1
        answer = self._probe.call(self._probe.reset, Reset.Request())
        if answer is not None and not answer.success:
            self._probe.fault("service", f"reset: {answer.message}")

    def _kill_camera(self) -> None:
        self.done["cameras killed"] += 1
        self._camera.kill()
        self._second = None
        time.sleep(self._random.uniform(0.0, 1.0))
        self._current = generation = self._camera.start()
        # From the moment that its images can be there: the process has to start first.
        waited = time.monotonic() + 20.0
        while generation not in self._probe.generations and time.monotonic() < waited and self._node.poll() is None:
            if self._probe.node.count_publishers("image") > 0:
                break
            time.sleep(0.02)
        sending = time.monotonic()
        while generation not in self._probe.generations and time.monotonic() < waited and self._node.poll() is None:
            time.sleep(0.02)
        if generation in self._probe.generations:
            self.recoveries.append(max(0.0, self._probe.generations[generation] - sending))
            if self.recoveries[-1] > _RECOVERY:
                self._probe.fault("recovery", f"{self.recoveries[-1]:.2f} s after camera {generation} had come")
        else:
            self._probe.fault("recovery", f"camera {generation} was never answered; the node is {self._probe.state()}")
        self._probe.newest = time.monotonic()

    def _second_camera(self) -> None:
        if self._second is None:
            self.done["second cameras"] += 1
            self._second = self._camera.start(), time.monotonic() + 8.0

    def _pause(self) -> None:
        self.done["deactivations"] += 1
        self._probe.transition(Transition.TRANSITION_DEACTIVATE)
        time.sleep(self._random.uniform(0.0, 1.0))
        self._probe.transition(Transition.TRANSITION_ACTIVATE)
        self._probe.newest = time.monotonic() + 2.0

    def _configure_anew(self) -> None:
        """Down to unconfigured and up again, with the other image transport."""
        self.done["configurations"] += 1
        self._probe.transition(Transition.TRANSITION_DEACTIVATE)
        self._probe.transition(Transition.TRANSITION_CLEANUP)
        self._probe.anew()
        transport = "compressed" if self.done["configurations"] % 2 else "raw"
        if not self._probe.set_parameter("image_transport", transport):
            self._probe.fault("parameter", f"image_transport {transport} was refused while unconfigured")
        self._probe.transition(Transition.TRANSITION_CONFIGURE)
        self._probe.transition(Transition.TRANSITION_ACTIVATE)
        self._probe.newest = time.monotonic() + 2.0

    def _tidy(self) -> None:
        now = time.monotonic()
        if self._second is not None and now > self._second[1]:
            self._camera.kill(self._second[0])
            self._second = None
        for node, subscription, _ in [each for each in self._views if each[2] < now]:
            node.destroy_subscription(subscription)
        self._views = [each for each in self._views if each[2] >= now]


def start_node(bug: str | None, log: Any) -> subprocess.Popen[bytes]:
    """The node as a process, the clock taken from the camera."""
    program = ["-m", "instformer_ros.nodes.openvis"] if bug is None else [str(_HERE / "soak_node.py"), bug]
    arguments = ["--ros-args", "-p", "use_sim_time:=true", "-p", "report_interval:=0.0"]
    return subprocess.Popen([sys.executable, *program, *arguments], stdout=log, stderr=log)


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=30.0, help="of the camera, Hz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--latency", type=float, default=2.0, help="most seconds from image to result (default: %(default)s)"
    )
    parser.add_argument(
        "--memory-growth", type=float, default=0.02, help="most after the first sixth (default: %(default)s)"
    )
    parser.add_argument("--no-transitions", action="store_true", help="leave the life cycle alone")
    parser.add_argument("--plant", choices=BUGS, help="run a node with this bug")
    parser.add_argument("--json", type=Path, help="write the report here")
    parser.add_argument("--log", type=Path, help="the node's log (default: a temporary file)")
    options = parser.parse_args()
    log_file = options.log or Path(tempfile.mkdtemp(prefix="soak_")) / "node.log"
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(_HERE.parent / "config" / "fastdds.xml"))
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    checker = Checker(options.latency)
    probe = Probe(checker)
    with log_file.open("wb") as log:
        node = start_node(options.plant, log)
        camera, resources = Camera(options.rate, log), Resources(node.pid)
        soak = Soak(probe, camera, node, resources, options.seed)
        try:
            while probe.state() != "active" and node.poll() is None:
                time.sleep(0.2)
            soak.run(60 * options.minutes, not options.no_transitions)
        except KeyboardInterrupt:
            print("interrupted: the report is of what was done")
        ended = _end(probe, node)
        camera.kill()
    checker.end()
    report = _report(options, checker, soak, resources, ended, log_file)
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if report["faults"] else 0


def _end(probe: Probe, node: subprocess.Popen[bytes]) -> float:
    """SIGINT; seconds until the node has ended."""
    started = time.monotonic()
    if node.poll() is None:
        node.send_signal(signal.SIGINT)
        try:
            code = node.wait(20)
            if code != 0:
                probe.fault("end", f"code {code} after SIGINT")
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()
            probe.fault("end", "still there 20 s after SIGINT")
    return time.monotonic() - started


def _report(
    options: argparse.Namespace, checker: Checker, soak: Soak, resources: Resources, ended: float, log_file: Path
) -> dict[str, Any]:
    lines = log_file.read_text(errors="replace").splitlines()
    tracebacks = [n for n, line in enumerate(lines) if line.startswith("Traceback")]
    if tracebacks:
        checker.fault("traceback", f"{len(tracebacks)} in {log_file}: " + " | ".join(lines[tracebacks[0] :][:12])[:600])
    growth: dict[str, float] = {}
    if len(resources.rows) > 20:
        growth = resources.growth(min(300.0, resources.rows[-1][0] / 6))
        if growth["memory_growth"] > options.memory_growth:
            checker.fault("memory", f"grew by {growth['memory_growth']:.1%}")
        if growth["threads_growth"] > 2 or growth["files_growth"] > 4:
            checker.fault("resources", f"threads {growth['threads_growth']:+}, files {growth['files_growth']:+}")
    late = np.array(checker.latencies or [np.nan])
    return {
        "minutes": round(resources.rows[-1][0] / 60, 1) if resources.rows else 0,
        "planted": options.plant,
        "results": checker.results,
        "events": dict(soak.done),
        "latency_s": {"median": round(float(np.median(late)), 4), "p99": round(float(np.quantile(late, 0.99)), 4),
                      "max": round(float(late.max()), 4)},
        "recovery_s": {"median": round(float(np.median(soak.recoveries or [np.nan])), 3),
                       "max": round(max(soak.recoveries, default=float("nan")), 3)},
        "resources": growth,
        "seconds_to_end": round(ended, 2),
        "faults": dict(checker.faults),
        "examples": checker.examples,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
