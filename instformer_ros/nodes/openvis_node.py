"""The openvis node: words and camera images in, tracked instances out. A managed (lifecycle) node."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, JumpThreshold, TimeJump
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.service import Service
from rclpy.task import Future as RosFuture
from rclpy.timer import Timer
from sensor_msgs.msg import Image

from instformer_ros.engine import Engine
from instformer_ros.model.vocabulary import validate_names
from instformer_ros.msg import Vocabulary as VocabularyMessage
from instformer_ros.nodes.openvis_parameters import PARAMETERS, SETTINGS, camera_names
from instformer_ros.nodes.outputs import OUTPUT_SETTINGS, Output, OutputSettings, make_outputs, publish_all
from instformer_ros.nodes.pipeline import Counts, EngineLike, Pipeline
from instformer_ros.nodes.run import parting_logger
from instformer_ros.nodes.words import WordsTopic
from instformer_ros.ros import images, qos
from instformer_ros.ros.frames import CameraFrame
from instformer_ros.ros.messages import vocabulary_message
from instformer_ros.ros.throttle import Throttle
from instformer_ros.settings import Settings
from instformer_ros.srv import SetVocabulary
from instformer_ros.structures import InstformerError, TrackedFrame, Vocabulary

Loader = Callable[[str, str, Settings], EngineLike]
_SUCCESS, _FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
_SHOWN = 10  # words of a vocabulary in a line of the log


@dataclass
class _Camera:
    outputs: list[Output]
    images: qos.ImageSubscription | None = None  # while the node is active
    reported: Counts = field(default_factory=Counts)
    silent: bool = False  # it has been said that no image comes


def _transition(step: Callable[[OpenVisNode, LifecycleState], None]) -> Callable[..., TransitionCallbackReturn]:
    """A transition that ends where it started if ``step`` raises; rclpy itself swallows the exception unsaid."""

    @wraps(step)
    def run(self: OpenVisNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            step(self, state)
        except InstformerError as error:
            self.get_logger().error(f"{step.__name__.removeprefix('on_')}: {error}")
            return _FAILURE
        except Exception:
            if self.context.ok():  # else everything fails, because the process is being ended
                self.get_logger().error(f"{step.__name__.removeprefix('on_')} failed:\n{traceback.format_exc()}")
            return _FAILURE
        return _SUCCESS

    return run


class OpenVisNode(LifecycleNode):
    """Subscribes to ``image`` and ``vocabulary``; publishes ``~/instances``, ``~/overlay`` and ``~/vocabulary``.

    configure loads and warms the model, activate subscribes, deactivate ends the work, cleanup frees the memory.
    """

    def __init__(self, load: Loader = Engine.load, **node_arguments: Any) -> None:
        """``load(model, device, settings)`` makes the engine. Raises InstformerError for a bad parameter."""
        super().__init__("openvis", **node_arguments)
        self._load = load
        self._pipeline: Pipeline[Image, CameraFrame] | None = None
        self._cameras: dict[str, _Camera] = {}
        self._complaints = Throttle()
        self._vocabulary_out: Publisher[VocabularyMessage] | None = None
        self._service: Service[Any, Any] | None = None
        self._timer: Timer | None = None
        self._in_force: Vocabulary | None = None
        self._mirroring = False
        PARAMETERS.declare(self)
        self._settings = Settings(**{name: self._value(name) for name in SETTINGS})
        self._output_settings = OutputSettings(**{name: self._value(name) for name in OUTPUT_SETTINGS})
        self._words = WordsTopic(self, self._on_words)
        self._bell = self.create_guard_condition(self._mirror_vocabulary)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._apply_parameters)
        # A bag that loops or a simulation that starts again takes the time back: the tracks belong to another run.
        backwards = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jumps = self.get_clock().create_jump_callback(backwards, post_callback=self._on_time_jump)

    # --- Life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Configures and activates the node if ``autostart`` says so. A node that cannot start stays, to be mended."""
        if not self._value("autostart"):
            self.get_logger().info("waiting to be configured (autostart is off)")
        elif self.trigger_configure() == _SUCCESS:
            self.trigger_activate()
        else:
            how = f"ros2 lifecycle set {self.get_fully_qualified_name()}"
            self.get_logger().error(f"not started; once that is mended: '{how} configure' and '{how} activate'")

    def close(self) -> bool:
        """Ends everything, whatever the state. Returns False if a thread is still at work."""
        self._jumps.unregister()
        self._unsubscribe()
        return self._release()

    @_transition
    def on_configure(self, state: LifecycleState) -> None:
        """Loads and warms the model, puts the words in force, opens the topics of words and results."""
        try:
            self._configure()
        except BaseException:
            self._release()
            raise

    @_transition
    def on_activate(self, state: LifecycleState) -> None:
        """Subscribes to the images. Tracks start anew; their ids go on."""
        assert self._pipeline is not None
        super().on_activate(state)
        self._pipeline.reset()
        wish = self._value("image_reliability")
        for name, camera in self._cameras.items():
            topic = f"{name}/image" if name else "image"
            camera.images = qos.ImageSubscription(self, topic, partial(self._pipeline.put, name), wish)
            self.get_logger().info(f"listening to '{camera.images.topic_name}'")
        self._restart_reports()

    @_transition
    def on_deactivate(self, state: LifecycleState) -> None:
        """Unsubscribes and waits for the pass under way."""
        assert self._pipeline is not None
        self._pipeline.discard()
        self._unsubscribe()
        super().on_deactivate(state)

    @_transition
    def on_cleanup(self, state: LifecycleState) -> None:
        """Frees the model's memory."""
        self._release()

    @_transition
    def on_shutdown(self, state: LifecycleState) -> None:
        """Ends the work in whatever state."""
        self._unsubscribe()
        self._release()

    @_transition
    def on_error(self, state: LifecycleState) -> None:
        """Back to unconfigured."""
        self._unsubscribe()
        self._release()

    def _configure(self) -> None:
        started = time.monotonic()
        names = validate_names(self._value("vocabulary"))
        engine = self._load(self._value("model"), self._value("device"), self._settings)
        try:
            engine.warm_up()
        except BaseException:
            engine.close()
            raise
        self._pipeline = Pipeline(engine, self)
        self._vocabulary_out = self.create_publisher(VocabularyMessage, "~/vocabulary", qos.LATCHED)
        for name in camera_names(self._value("cameras")) or [""]:
            self._cameras[name] = _Camera(make_outputs(self, name))
        self._pipeline.set_vocabulary(names, always=True).result()
        # A group of its own: everything else goes on while it waits for the words to be encoded.
        self._service = self.create_service(
            SetVocabulary, "~/set_vocabulary", self._on_set_vocabulary, callback_group=ReentrantCallbackGroup()
        )
        self._words.open()
        self.get_logger().info(f"model '{self._value('model')}' is ready after {time.monotonic() - started:.1f} s")

    def _release(self) -> bool:
        """Undoes :meth:`_configure`, also a half of it. Returns False if a thread is still at work."""
        ended = self._pipeline.close() if self._pipeline is not None else True
        self._pipeline = None
        self._words.close()
        if self._service is not None:
            self.destroy_service(self._service)
            self._service = None
        if self._vocabulary_out is not None:
            self.destroy_publisher(self._vocabulary_out)
            self._vocabulary_out = None
        while self._cameras:
            _, camera = self._cameras.popitem()
            for output in camera.outputs:
                output.close()
        return ended

    def _unsubscribe(self) -> None:
        self._stop_reports()
        totals = self._pipeline.counts()[0] if self._pipeline is not None else {}
        for name, camera in self._cameras.items():
            if camera.images is not None:
                parting_logger(self).info(f"'{camera.images.topic_name}' in all: {totals.get(name, Counts())}")
                camera.images.close()
                camera.images = None

    # --- Frames: called by the pipeline's threads ---------------------------------------------------------------------

    def decode(self, camera: str, message: Image) -> CameraFrame:
        """The picture of an image message."""
        return CameraFrame(camera, message.header, images.from_message(message))

    def publish(self, camera: str, frame: CameraFrame, answer: TrackedFrame) -> None:
        """Sends the answer to one image out, under the image's own header."""
        publish_all(self._cameras[camera].outputs, frame, answer, self._output_settings)

    def vocabulary_changed(self, vocabulary: Vocabulary, unknown: tuple[str, ...]) -> None:
        """Tells the world which words are in force, before the first result that uses them."""
        if self._vocabulary_out is not None:
            self._vocabulary_out.publish(vocabulary_message(vocabulary))
        self.get_logger().info(f"vocabulary {vocabulary.version}: {_shown(vocabulary.names)}")
        if unknown:
            self.get_logger().warning(f"the model never learnt these words, so expect bad names: {_shown(unknown)}")
        self._in_force = vocabulary
        self._bell.trigger()

    def complain(self, subject: str, error: BaseException) -> None:
        """Logs a refusal in one line, an error of ours with its traceback; repetitions are held back and counted."""
        if not self.context.ok():
            return  # everything fails while the process is being ended
        camera = self._cameras.get(subject)
        topic = f"'{camera.images.topic_name}': " if camera and camera.images else ""
        if isinstance(error, InstformerError):
            text = self._complaints(f"{subject} refused", f"{topic}{error}")
            if text is not None:
                self.get_logger().warning(text)
        else:
            text = self._complaints(f"{subject} failed", f"{topic}{type(error).__name__}: {error}")
            if text is not None:
                self.get_logger().error(text + "\n" + "".join(traceback.format_exception(error)))

    def _on_time_jump(self, jump: TimeJump) -> None:
        if self._pipeline is not None:
            self._pipeline.reset()
            self.get_logger().info("the clock jumped back: all tracks are forgotten")

    # --- Words --------------------------------------------------------------------------------------------------------

    def _request(self, names: Sequence[str]) -> Future[Vocabulary]:
        """Raises InstformerError at once for words that cannot be; the future may raise it later."""
        if self._pipeline is None:
            raise InstformerError("vocabulary: the node is not configured; configure it first")
        return self._pipeline.set_vocabulary(validate_names(names))

    def _on_words(self, names: Sequence[str]) -> None:
        """From the topic or the parameter: nobody waits for an answer, so a refusal is logged."""
        try:
            self._request(names).add_done_callback(self._log_refusal)
        except InstformerError as error:
            self.complain("vocabulary", error)

    def _log_refusal(self, request: Future[Vocabulary]) -> None:
        if not request.cancelled() and (error := request.exception()) is not None:
            self.complain("vocabulary", error)

    async def _on_set_vocabulary(
        self, request: SetVocabulary.Request, response: SetVocabulary.Response
    ) -> SetVocabulary.Response:
        """Answers when the words are in force; frames flow meanwhile."""
        executor = self.executor
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
            self.complain("vocabulary", error)
            response.message = " ".join(str(error).split()) or "the node is being cleaned up; ask again later"
            response.version = self._in_force.version if self._in_force is not None else 0
        return response

    def _mirror_vocabulary(self) -> None:
        """Lets the parameter show the words in force, whoever asked for them."""
        if self._in_force is None:
            return
        names = list(self._in_force.names) or [""]
        if names != list(self._value("vocabulary")):
            self._mirroring = True
            try:
                self.set_parameters([Parameter("vocabulary", Parameter.Type.STRING_ARRAY, names)])
            finally:
                self._mirroring = False

    # --- Parameters ---------------------------------------------------------------------------------------------------

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _check_parameters(self, parameters: Sequence[Parameter[Any]]) -> SetParametersResult:
        """Refuses bad values with a reason, before any of them is set."""
        reason = PARAMETERS.refusal(parameters, configured=self._pipeline is not None)
        if reason is None:
            try:
                replace(self._settings, **_among(parameters, SETTINGS))
            except InstformerError as error:
                reason = str(error)
        return SetParametersResult(successful=reason is None, reason=reason or "")

    def _apply_parameters(self, parameters: Sequence[Parameter[Any]]) -> None:
        """Lets live parameters take effect."""
        if changes := _among(parameters, SETTINGS):
            self._settings = replace(self._settings, **changes)
            if self._pipeline is not None:
                self._pipeline.set_settings(self._settings)
        if changes := _among(parameters, OUTPUT_SETTINGS):
            self._output_settings = replace(self._output_settings, **changes)
        for parameter in parameters:
            match parameter.name:
                case "vocabulary" if self._pipeline is not None and not self._mirroring:
                    self._on_words(parameter.value)
                case "image_reliability":
                    for camera in self._cameras.values():
                        if camera.images is not None:
                            camera.images.set_wish(parameter.value)
                case "report_interval":
                    self._restart_reports()

    # --- Reports ------------------------------------------------------------------------------------------------------

    def _restart_reports(self) -> None:
        self._stop_reports()
        interval = self._value("report_interval")
        if interval > 0 and any(camera.images for camera in self._cameras.values()):
            self._timer = self.create_timer(interval, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _stop_reports(self) -> None:
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None

    def _report(self) -> None:
        """Says what became of the frames since the last report; a camera that stays silent is named once."""
        if self._pipeline is None:
            return
        counts, _ = self._pipeline.counts()
        for name, camera in self._cameras.items():
            if camera.images is None:
                continue
            now, topic = counts.get(name, Counts()), camera.images.topic_name
            news, camera.reported = now - camera.reported, now
            if news.received == 0 and not camera.silent:
                self.get_logger().warning(
                    f"no image on '{topic}' ({camera.images.publishers} publishers): is the camera running, and is "
                    "the topic remapped to it?"
                )
            elif news.received > news.answered + 2:
                self.get_logger().info(f"'{topic}': {news} in {self._value('report_interval'):g} s")
            camera.silent = news.received == 0


def _among(parameters: Sequence[Parameter[Any]], names: Sequence[str]) -> dict[str, Any]:
    return {parameter.name: parameter.value for parameter in parameters if parameter.name in names}


def _shown(words: Sequence[str]) -> str:
    """Words for a log line."""
    text = ", ".join(words[:_SHOWN]) or "no words, class-agnostic"
    return f"{text} and {len(words) - _SHOWN} more" if len(words) > _SHOWN else text
