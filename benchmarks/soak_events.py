"""What happens to the node in a soak, and when: drawn from a seed."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from typing import Any

from lifecycle_msgs.msg import Transition
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from soak_probe import Probe
from soak_processes import Camera
from soak_resources import Resources

from instformer_ros.data.toyvis import ALL_NAMES
from instformer_ros.msg import InstanceArray, Vocabulary
from instformer_ros.srv import Reset, SetVocabulary

_SILENCE = 5.0  # seconds without a result, with the node active and a camera at work, that are a fault
_RECOVERY = 2.0  # seconds from a new camera's first image, heard or not, to the first result: more is a fault
_PATIENCE = 25.0  # seconds from a camera's end in which the next one has started, which takes seconds, and is answered
_PARAMETERS: dict[str, tuple[Any, ...]] = {  # good values, then bad ones
    "score_threshold": (0.0, 0.0, 0.3),  # mostly all is named, so that wrong names show
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


class Soak:
    """The events of one run, drawn from a seed."""

    def __init__(
        self, probe: Probe, camera: Camera, node: subprocess.Popen[bytes], resources: Resources, seed: int
    ) -> None:
        self._probe, self._camera, self._node, self._resources = probe, camera, node, resources
        self._random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.recoveries: list[float] = []  # seconds from a new camera's first image
        self.recoveries_since_kill: list[float] = []  # seconds from the old one's end: the process's start as well
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
            every += [(45.0, self._pause), (150.0, self._configure_anew)]
        started = time.monotonic()
        # All of it has happened within five minutes, before memory is held against that of the beginning.
        due = [started + period * (0.4 + 0.05 * n) for n, (period, _) in enumerate(every)]
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
        killed = time.time()
        self._second = None
        time.sleep(self._random.uniform(0.0, 1.0))
        self._current = generation = self._camera.start()
        while (first := self._probe.first_result(generation)) is None and self._node.poll() is None:
            if time.time() > killed + _PATIENCE:
                state = self._probe.state()
                self._probe.fault("recovery", f"camera {generation} was never answered; the node is {state}")
                break
            time.sleep(0.02)
        if first is not None:
            began, came = first
            self.recoveries.append(came - began)
            self.recoveries_since_kill.append(came - killed)
            if came - began > _RECOVERY:
                self._probe.fault("recovery", f"{came - began:.2f} s after the first image of camera {generation}")
        self._probe.newest = time.monotonic()

    def _second_camera(self) -> None:
        if self._second is None:
            self.done["second cameras"] += 1
            self._second = self._camera.start(), time.monotonic() + 8.0

    def _pause(self) -> None:
        self.done["deactivations"] += 1
        self._probe.transition(Transition.TRANSITION_DEACTIVATE)
        self._resources.sample(at_rest=True)
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
