"""The node under test with a camera, a listener and the hands of a user around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Log
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_fakes import Loader
from ros_world import World, wait_for
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from instformer_ros.msg import InstanceArray, Vocabulary
from instformer_ros.nodes.openvis_node import OpenVisNode
from instformer_ros.ros.images import to_message
from instformer_ros.ros.qos import LATCHED, image_qos
from instformer_ros.srv import SetVocabulary

_PICTURE = np.full((24, 32, 3), 90, np.uint8)


class Rig:
    """The node under test, a camera, a listener and the hands of a user."""

    def __init__(self, world: World, loader: Loader, parameters: dict[str, Any], start: bool = True) -> None:
        self.world = world
        self.loader = loader
        # Between the scores of the two things that the made-up engine sees.
        parameters = {"score_threshold": 0.3, **parameters}
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.node = OpenVisNode(loader, parameter_overrides=overrides, **world.node_arguments)
        self.answers: list[InstanceArray] = []
        self.vocabularies: list[Vocabulary] = []
        self.log: list[Log] = []
        self._stamp = 0
        probe = world.probe
        probe.create_subscription(Log, "/rosout", self._hear, QoSProfile(depth=1000))
        probe.create_subscription(InstanceArray, self._name("openvis/instances"), self.answers.append, 2000)
        probe.create_subscription(Vocabulary, self._name("openvis/vocabulary"), self.vocabularies.append, LATCHED)
        self.camera = self.make_camera("image")
        if start:
            self.node.start()
        world.spin(self.node)
        if start and self.node.get_parameter("autostart").value:
            wait_for(self.camera.get_subscription_count, what="the image subscription")
            wait_for(lambda: probe.count_publishers(self._name("openvis/instances")), what="~/instances")
            wait_for(lambda: self.vocabularies, what="~/vocabulary")
            time.sleep(0.1)

    def _name(self, topic: str) -> str:
        return f"{self.world.namespace}/{topic}"

    def _hear(self, message: Log) -> None:
        if message.name.endswith("openvis"):
            self.log.append(message)

    def make_camera(self, topic: str, reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE) -> Any:
        return self.world.probe.create_publisher(Image, self._name(topic), image_qos(reliability, depth=10))

    def image(self) -> Image:
        self._stamp += 1
        header = Header(frame_id="left_eye")
        header.stamp.sec = self._stamp
        return to_message(_PICTURE, header)

    def answer(self, message: Image | None = None) -> InstanceArray:
        """Sends one image and returns its answer."""
        message = message or self.image()
        self.camera.publish(message)
        found = wait_for(lambda: [a for a in self.answers if a.header == message.header], what="an answer")
        return found[0]

    def said(self, words: str) -> list[str]:
        return [entry.msg for entry in self.log if words in entry.msg]

    def set(self, name: str, value: Any) -> Any:
        """Sets a parameter from outside and returns the result."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        response = self.world.call(
            SetParameters, "openvis/set_parameters", SetParameters.Request(parameters=[parameter])
        )
        return response.results[0]

    def say(self, names: Sequence[str]) -> Any:
        return self.world.call(SetVocabulary, "openvis/set_vocabulary", SetVocabulary.Request(names=list(names)))

    def transit(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.world.call(ChangeState, "openvis/change_state", request).success)

    @property
    def state(self) -> str:
        return str(self.node._state_machine.current_state[1])


Start = Callable[..., Rig]
