"""The openvis node: words and camera images in, tracked instances out. A managed (lifecycle) node.

This module holds the life cycle and the parameters; what goes in and out is in the modules beside it.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, Protocol

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from instformer_ros.engine import Engine
from instformer_ros.memory import give_back_freed_memory
from instformer_ros.model.vocabulary import validate_names
from instformer_ros.nodes.inputs import INPUT_SETTINGS, Arrival, CameraInput, InputSettings, decode
from instformer_ros.nodes.monitor import THRESHOLDS, Facts, Monitor, Thresholds
from instformer_ros.nodes.openvis_parameters import PARAMETERS, SETTINGS, camera_names
from instformer_ros.nodes.output import OUTPUT_SETTINGS, OutputSettings, Result
from instformer_ros.nodes.outputs import CameraOutputs
from instformer_ros.nodes.pipeline import Pipeline
from instformer_ros.nodes.protocols import EngineLike
from instformer_ros.nodes.statistics import Statistics
from instformer_ros.nodes.vocabulary_interface import VocabularyInterface
from instformer_ros.ros.frames import CameraFrame
from instformer_ros.ros.throttle import Throttle
from instformer_ros.ros.transforms import TargetFrame
from instformer_ros.settings import Settings
from instformer_ros.srv import Reset
from instformer_ros.structures import InstformerError, Session, TrackedFrame, TrackState, Vocabulary
from instformer_ros.threads import available_cores, use_threads

_SUCCESS, _FAILURE, _ERROR = (
    TransitionCallbackReturn.SUCCESS,
    TransitionCallbackReturn.FAILURE,
    TransitionCallbackReturn.ERROR,
)


class Loader(Protocol):
    """What makes the engine, as :meth:`Engine.load` does."""

    def __call__(
        self, model: str, device: str, settings: Settings, *, precision: str, session: Session
    ) -> EngineLike: ...


@dataclass
class _Camera:
    outputs: CameraOutputs
    statistics: Statistics = field(default_factory=Statistics)
    input: CameraInput | None = None  # while the node is active


class _Broken(Exception):
    """Raised in a transition: the node cannot go on and has to be configured anew."""


def _transition(step: Callable[[OpenVisNode, LifecycleState], None]) -> Callable[..., TransitionCallbackReturn]:
    """A transition that ends where it started if ``step`` raises; rclpy itself swallows the exception unsaid."""

    @wraps(step)
    def run(self: OpenVisNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            step(self, state)
        except _Broken:
            return _ERROR
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
    """Takes ``image`` and ``vocabulary``, publishes ``~/instances``, other views of them, and ``~/vocabulary``.

    configure loads and warms the model, activate subscribes, deactivate ends the work, cleanup frees the memory.
    """

    def __init__(self, load: Loader = Engine.load, **node_arguments: Any) -> None:
        """``load`` makes the engine, as :class:`Loader` says. Raises InstformerError: a bad parameter."""
        super().__init__("openvis", **node_arguments)
        self._load = load
        self._session = Session()
        self._pipeline: Pipeline[Arrival, CameraFrame] | None = None
        self._cameras: dict[str, _Camera] = {}
        self._target: TargetFrame | None = None
        self._complaints = Throttle()
        self._fault = self._remedy = ""
        PARAMETERS.declare(self)
        self._settings = Settings(**self._values(SETTINGS))
        self._output_settings = OutputSettings(**self._values(OUTPUT_SETTINGS))
        self._words = VocabularyInterface(self, self.complain)
        self._monitor = Monitor(self, self._facts, Thresholds(**self._values(THRESHOLDS)))
        self.create_service(Reset, "~/reset", self._on_reset)
        self._death = self.create_guard_condition(self._on_death)
        self.add_pre_set_parameters_callback(PARAMETERS.adapted)
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
            self.get_logger().error(f"not started; once that is mended: {self._how_to_start}")

    def close(self) -> bool:
        """Ends everything, whatever the state. Returns False if a thread is still at work."""
        self._jumps.unregister()
        return self._release(ending=True)

    @_transition
    def on_configure(self, state: LifecycleState) -> None:
        """Loads and warms the model, puts the words in force, opens the topics of words and results."""
        try:
            self._configure()
        except BaseException as error:
            self._release()
            self._fault = _one_line(error)
            raise

    @_transition
    def on_activate(self, state: LifecycleState) -> None:
        """Subscribes to the images. Tracks start anew; their ids go on."""
        assert self._pipeline is not None
        super().on_activate(state)
        self._pipeline.reset()
        settings = InputSettings(**self._values(INPUT_SETTINGS))
        for name, camera in self._cameras.items():
            camera.statistics.clear()
            camera.input = self._open_input(name, camera.statistics, settings)
            self._monitor.watch(name, camera.input, camera.statistics)
            self.get_logger().info(f"listening to '{camera.input.topic_name}'")
        self._monitor.report_every(self._value("report_interval"))

    @_transition
    def on_deactivate(self, state: LifecycleState) -> None:
        """Unsubscribes, waits for the pass under way and gives back the memory that was kept for the next."""
        assert self._pipeline is not None
        ended = self._pipeline.discard()
        if not ended:
            self.get_logger().warning("a pass is still under way; its result will be thrown away")
        self._unsubscribe()
        super().on_deactivate(state)
        if ended:
            give_back_freed_memory(collect=False)  # soon done: frames may be wanted again at once
        self._check_fault()

    @_transition
    def on_cleanup(self, state: LifecycleState) -> None:
        """Frees the model's memory."""
        if not self._release():
            self.get_logger().warning("a pass is still under way; the model's memory is freed when it ends")
        self._check_fault()

    @_transition
    def on_shutdown(self, state: LifecycleState) -> None:
        """Ends the work in whatever state."""
        self._release()

    @_transition
    def on_error(self, state: LifecycleState) -> None:
        """Back to unconfigured."""
        self._release()

    def _configure(self) -> None:
        started = time.monotonic()
        self._fault = ""
        names = validate_names(self._value("vocabulary"))
        if self._value("use_depth") and self._value("target_frame"):
            self._target = TargetFrame(self, self._value("target_frame"))
        threads = use_threads(self._value("threads"))
        engine = self._load(
            self._value("model"),
            self._value("device"),
            self._settings,
            precision=self._value("precision"),
            session=self._session,
        )
        try:
            engine.warm_up()
        except BaseException:
            engine.close()
            raise
        self._pipeline = Pipeline(engine, self, self._value("round_wait"))
        for name in camera_names(self._value("cameras")) or [""]:
            self._cameras[name] = _Camera(CameraOutputs(self, name, self._value("use_depth")))
        self._words.open(self._pipeline, names)
        took = time.monotonic() - started
        where = f"cpu ({threads} of {available_cores()} cores)" if str(engine.device) == "cpu" else engine.device
        self.get_logger().info(f"model '{self._value('model')}' is ready on {where} after {took:.1f} s")

    def _release(self, ending: bool = False) -> bool:
        """Undoes :meth:`on_activate` and :meth:`_configure`, also a half. Returns False if a thread is still at work.

        ``ending``: so is the process, which gives its memory back anyway.
        """
        ended = self._pipeline.close() if self._pipeline is not None else True
        self._unsubscribe()  # after that: every frame is counted by now
        self._pipeline = None
        self._words.close()
        while self._cameras:
            _, camera = self._cameras.popitem()
            camera.outputs.close()
        if self._target is not None:
            self._target.close()
            self._target = None
        if ended and not ending:
            give_back_freed_memory()
        return ended

    def _unsubscribe(self) -> None:
        self._monitor.close()
        for camera in self._cameras.values():
            if camera.input is not None:
                camera.input.close()
                camera.input = None

    def _on_death(self) -> None:
        """A thread of the pipeline has died: the node falls back to unconfigured, by way of the error state."""
        if not self._fault or self._pipeline is None:
            return
        active = any(camera.input for camera in self._cameras.values())
        (self.trigger_deactivate if active else self.trigger_cleanup)()
        self.get_logger().fatal(f"unconfigured after {self._fault}{self._remedy}")

    def _check_fault(self) -> None:
        if self._fault:
            raise _Broken

    @property
    def _how_to_start(self) -> str:
        how = f"ros2 lifecycle set {self.get_fully_qualified_name()}"
        return f"'{how} configure' and '{how} activate'"

    # --- Frames: called by the pipeline's threads ---------------------------------------------------------------------

    def decode(self, camera: str, message: Arrival) -> CameraFrame:
        """What has arrived, as arrays."""
        return decode(camera, message, self.complain)

    def publish(self, camera: str, frame: CameraFrame, answer: TrackedFrame) -> None:
        """Sends the answer to one image out, under the image's own header."""
        out = self._cameras[camera]
        seconds = out.outputs.publish(Result(frame, answer, self._output_settings, self._target))
        stamp = frame.header.stamp  # of any value, while rclpy's Time refuses those before 1970
        latency = (self.get_clock().now().nanoseconds - stamp.sec * 10**9 - stamp.nanosec) * 1e-9
        alive = sum(instance.state is not TrackState.TERMINATED for instance in answer.instances)
        out.statistics.answered(latency, {**answer.timings, "publish": sum(seconds.values())}, alive)

    def vocabulary_changed(self, vocabulary: Vocabulary, unknown: tuple[str, ...]) -> None:
        """Other words are in force from the next result on."""
        self._words.changed(vocabulary, unknown)

    def complain(self, subject: str, error: BaseException) -> None:
        """Logs a refusal in one line, an error of ours with its traceback; repetitions are held back and counted."""
        if not self.context.ok():
            return  # everything fails while the process is being ended
        camera = self._cameras.get(subject)
        topic = f"'{camera.input.topic_name}': " if camera and camera.input else ""
        if isinstance(error, InstformerError):
            text = self._complaints(f"{subject} refused", f"{topic}{error}")
            if text is not None:
                self.get_logger().warning(text)
        else:
            text = self._complaints(f"{subject} failed", f"{topic}{type(error).__name__}: {error}")
            if text is not None:
                self.get_logger().error(text + "\n" + "".join(traceback.format_exception(error)))

    def died(self, error: BaseException) -> None:
        """A thread of the pipeline has ended: that is a state of the node, not a line in the log alone."""
        named = isinstance(error, InstformerError)  # that names its own remedy
        self._fault, self._remedy = _one_line(error), "" if named else f"; to try again: {self._how_to_start}"
        self._death.trigger()

    # --- Tracks -------------------------------------------------------------------------------------------------------

    def _open_input(self, name: str, statistics: Statistics, settings: InputSettings) -> CameraInput:
        assert self._pipeline is not None
        pipeline = self._pipeline

        def put(arrival: Arrival) -> None:
            statistics.arrived()
            pipeline.put(name, arrival)

        def rewound(seconds: float) -> None:
            pipeline.reset(name)
            self.get_logger().info(f"stamps on '{topic}' fell back by {seconds:.1f} s: its tracks are forgotten")

        made = CameraInput(self, name, settings, put, rewound)
        topic = made.topic_name
        return made

    def _on_time_jump(self, jump: TimeJump) -> None:
        if self._pipeline is not None:
            self._pipeline.reset()
            for camera in self._cameras.values():
                camera.statistics.clear()
            self.get_logger().info("the clock jumped back: all tracks are forgotten")

    def _on_reset(self, request: Reset.Request, response: Reset.Response) -> Reset.Response:
        """Takes effect before the next frame."""
        if request.camera and request.camera not in self._cameras:
            known = ", ".join(filter(None, self._cameras)) or "only '' for all"
            response.message = f"camera '{request.camera[:40]}' is unknown: there is {known}"
        elif self._pipeline is None:
            response.message = "the node is not configured: configure it first"
        else:
            self._pipeline.reset(request.camera or None)
            response.success = True
            response.message = f"tracks of {request.camera or 'all cameras'} forgotten"
        return response

    def _facts(self) -> Facts:
        pipeline = self._pipeline
        return Facts(
            state=str(self._state_machine.current_state[1]),
            fault=self._fault,
            vocabulary=self._words.in_force or Vocabulary(),
            counts=pipeline.counts() if pipeline is not None else {},
            device=pipeline.device if pipeline is not None else "",
            device_memory=pipeline.device_memory if pipeline is not None else 0,
            shortage=pipeline.shortage if pipeline is not None else "",
        )

    # --- Parameters ---------------------------------------------------------------------------------------------------

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _values(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: self._value(name) for name in names}

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
        self._output_settings = replace(self._output_settings, **_among(parameters, OUTPUT_SETTINGS))
        self._monitor.thresholds = replace(self._monitor.thresholds, **_among(parameters, THRESHOLDS))
        for parameter in parameters:
            match parameter.name:
                case "vocabulary":
                    self._words.ask(parameter.value)
                case "image_reliability":
                    for camera in self._cameras.values():
                        if camera.input is not None:
                            camera.input.set_reliability(parameter.value)
                case "round_wait" if self._pipeline is not None:
                    self._pipeline.round_wait = parameter.value
                case "report_interval":
                    self._monitor.report_every(parameter.value)


def _one_line(error: BaseException) -> str:
    return str(error) if isinstance(error, InstformerError) else " ".join(f"{type(error).__name__}: {error}".split())


def _among(parameters: Sequence[Parameter[Any]], names: Sequence[str]) -> dict[str, Any]:
    return {parameter.name: parameter.value for parameter in parameters if parameter.name in names}
