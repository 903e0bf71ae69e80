"""The ways by which words come into the node (topic, service, parameter) and show which are in force."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from copy import copy
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.task import Future as RosFuture

from instformer_ros.model.vocabulary import validate_names
from instformer_ros.msg import Vocabulary as VocabularyMessage
from instformer_ros.nodes.pipeline import Pipeline
from instformer_ros.nodes.words import WordsTopic
from instformer_ros.ros import qos
from instformer_ros.ros.messages import vocabulary_message
from instformer_ros.srv import SetVocabulary
from instformer_ros.structures import InstformerError, Vocabulary

_SHOWN = 10  # words of a vocabulary in a line of the log


class VocabularyInterface:
    """``vocabulary`` and ``~/set_vocabulary`` in, ``~/vocabulary`` out; the parameter ``vocabulary`` both ways."""

    def __init__(self, node: Node, complain: Callable[[str, BaseException], None]) -> None:
        """``complain(subject, error)`` logs a refusal."""
        self._node = node
        self._complain = complain
        self._pipeline: Pipeline[Any, Any] | None = None
        self._publisher: Publisher[VocabularyMessage] | None = None
        self._topic = WordsTopic(node, self.ask)
        self._bell = node.create_guard_condition(self._mirror)
        self._mirroring = False
        self.in_force: Vocabulary | None = None
        # There in every state: who asks an unconfigured node is told so, and a service that is taken away under a
        # request could not answer it. A group of its own: all else goes on while it waits for words to be encoded.
        group = ReentrantCallbackGroup()
        node.create_service(SetVocabulary, "~/set_vocabulary", self._serve, callback_group=group)

    def open(self, pipeline: Pipeline[Any, Any], names: Sequence[str]) -> None:
        """Puts the first words in force and listens for others. Raises InstformerError if those cannot be."""
        self._pipeline = pipeline
        with qos.named_overrides("~/vocabulary"):
            self._publisher = self._node.create_publisher(
                VocabularyMessage, "~/vocabulary", copy(qos.LATCHED), qos_overriding_options=qos.overridable()
            )
        pipeline.set_vocabulary(names, always=True).result()
        self._topic.open()

    def close(self) -> None:
        """Undoes :meth:`open`, also a half of it."""
        self._pipeline = None
        self._topic.close()
        self.in_force = None
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)
            self._publisher = None

    def changed(self, vocabulary: Vocabulary, unknown: Sequence[str]) -> None:
        """Tells the world which words are in force. Called by the pipeline, between the last result
        that used others and the first that uses them.
        """
        if self._publisher is not None:
            self._publisher.publish(vocabulary_message(vocabulary))
        self._node.get_logger().info(f"vocabulary {vocabulary.version}: {_shown(vocabulary.names)}")
        if unknown:
            self._node.get_logger().warning(
                f"the model never learnt these words, so expect bad names: {_shown(unknown)}"
            )
        self.in_force = vocabulary
        self._bell.trigger()

    def ask(self, names: Sequence[str]) -> None:
        """From the topic or the parameter: nobody waits for an answer, so a refusal is logged."""
        if self._mirroring or self._pipeline is None:  # the parameter shows, or holds for later, what it was set to
            return
        try:
            self._request(names).add_done_callback(self._log_refusal)
        except InstformerError as error:
            self._complain("vocabulary", error)

    def _request(self, names: Sequence[str]) -> Future[Vocabulary]:
        """Raises InstformerError at once for words that cannot be; the future may raise it later."""
        if self._pipeline is None:
            raise InstformerError("vocabulary: the node is not configured; configure it first")
        return self._pipeline.set_vocabulary(validate_names(names))

    def _log_refusal(self, request: Future[Vocabulary]) -> None:
        if not request.cancelled() and (error := request.exception()) is not None:
            self._complain("vocabulary", error)

    async def _serve(self, request: SetVocabulary.Request, response: SetVocabulary.Response) -> SetVocabulary.Response:
        """Answers when the words are in force; frames flow meanwhile."""
        executor = self._node.executor
        done = RosFuture(executor=executor)

        def wake(_: object) -> None:
            done.set_result(None)
            if executor is not None:
                executor.wake()

        try:
            pending = self._request(list(request.names))
            pending.add_done_callback(wake)
            await done
            vocabulary = pending.result()
            response.success = True
            response.message = f"in force: {_shown(vocabulary.names)}"
            response.version = vocabulary.version
        except (Exception, CancelledError) as error:
            self._complain("vocabulary", error)
            response.message = " ".join(str(error).split()) or "the node is being cleaned up; ask again later"
            response.version = self.in_force.version if self.in_force is not None else 0
        return response

    def _mirror(self) -> None:
        """Lets the parameter show the words in force, whoever asked for them."""
        if self.in_force is None:
            return
        names = list(self.in_force.names) or [""]
        if names != list(self._node.get_parameter("vocabulary").value):
            self._mirroring = True
            try:
                self._node.set_parameters([Parameter("vocabulary", Parameter.Type.STRING_ARRAY, names)])
            finally:
                self._mirroring = False


def _shown(words: Sequence[str]) -> str:
    """Words for a log line."""
    text = ", ".join(words[:_SHOWN]) or "no words, class-agnostic"
    return f"{text} and {len(words) - _SHOWN} more" if len(words) > _SHOWN else text
