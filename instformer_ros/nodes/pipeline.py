"""The way of a frame through the node, without ROS: newest frame wins, one worker runs the engine.

Three threads meet here. The executor's thread puts messages in and asks for changes; the worker takes the newest frame
of every camera, runs one pass over them and publishes; the vocabulary thread encodes words, which is slow, gives way to
the frames meanwhile, and hands the words to the worker. Whatever changes the engine is done by the worker between two
passes, so no frame ever sees half of a change.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout  # the builtin one only since Python 3.11
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from instformer_ros.memory import give_back_freed_memory
from instformer_ros.nodes.rounds import Rounds
from instformer_ros.structures import DeviceLostError, InstformerError, TrackedFrame, Vocabulary

Pixels = NDArray[np.uint8]
M = TypeVar("M")  # a camera's message


class Picture(Protocol):
    """A message decoded."""

    @property
    def image(self) -> Pixels:
        """(H, W, 3) uint8 RGB."""


P = TypeVar("P", bound=Picture)
M_contra = TypeVar("M_contra", contravariant=True)
_JOIN = 4.0  # seconds to wait for a pass to end; `ros2 launch` loses patience after five
_CLOSING = "vocabulary: the node is being cleaned up; ask again once it is configured"
_HOPELESS = 30  # passes in a row that fail by an error of ours: we are broken for good
_FLOWING = 1.0  # seconds since the last pass for which frames count as flowing


class EngineLike(Protocol):
    """What is asked of :class:`instformer_ros.engine.Engine`; tests use a lighter one."""

    settings: Any

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def unknown_words(self) -> tuple[str, ...]: ...

    @property
    def device(self) -> Any: ...

    @property
    def device_memory(self) -> int: ...

    @property
    def shortage(self) -> str: ...

    def warm_up(self) -> None: ...

    def encode_vocabulary(self, names: Sequence[str], pause: Callable[[float], None] | None = None) -> Any: ...

    def use_vocabulary(self, encoded: Any) -> Vocabulary: ...

    def step(self, images: Mapping[str, Pixels]) -> dict[str, TrackedFrame]: ...

    def reset(self, camera: str | None = None) -> None: ...

    def close(self) -> None: ...


class Outlet(Protocol[M_contra, P]):
    """Where the pipeline's results go. All of it is called by the pipeline's threads and may raise."""

    def decode(self, camera: str, message: M_contra) -> P:
        """What the message shows; raises InstformerError if it is no good."""

    def publish(self, camera: str, frame: P, answer: TrackedFrame) -> None:
        """Sends the answer to one message out."""

    def vocabulary_changed(self, vocabulary: Vocabulary, unknown: tuple[str, ...]) -> None:
        """A vocabulary has come into force; ``unknown`` are those of its words that the model never learnt."""

    def complain(self, subject: str, error: BaseException) -> None:
        """Something was refused or went wrong; the pipeline goes on."""

    def died(self, error: BaseException) -> None:
        """The worker has ended by an error that it cannot survive; nothing is answered any more."""


@dataclass
class Counts:
    """What became of the frames. ``received = answered + dropped + refused + failed`` + the one or two under way."""

    received: int = 0
    answered: int = 0
    dropped: int = 0  # overtaken by a newer one
    refused: int = 0  # bad input
    failed: int = 0  # an error of ours

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def __str__(self) -> str:
        return ", ".join(f"{getattr(self, f.name)} {f.name}" for f in fields(self))


class Pipeline(Generic[M, P]):
    """Owns the engine from now on: nobody else may call it. Call :meth:`close` in the end."""

    def __init__(self, engine: EngineLike, outlet: Outlet[M, P], round_wait: float = 0.0) -> None:
        """``round_wait``: most seconds that a pass waits for the cameras whose images are due; may be set later."""
        self.round_wait = round_wait
        self._engine = engine
        self._outlet = outlet
        self._changed = threading.Condition()
        self._frames: dict[str, tuple[float, M]] = {}  # with the time of arrival
        self._rounds = Rounds()
        self._jobs: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._stopped = self._closed = self._left = False
        self._counts: dict[str, Counts] = {}
        self._last_pass = float("-inf")
        self._epoch = 0  # results of a pass that began in another one are thrown away
        self._in_vain = 0  # passes in a row that failed by an error of ours
        self._told = ""  # the shortage of memory at the last pass
        self._requests: queue.SimpleQueue[tuple[tuple[str, ...], bool, Future[Vocabulary]] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=partial(self._live, run), name=name, daemon=True)
            for name, run in (("frames", self._run), ("vocabulary", self._run_vocabulary))
        ]
        self._alive = len(self._threads)
        for thread in self._threads:
            thread.start()

    def put(self, camera: str, message: M) -> None:
        """Takes a camera's newest message; one still waiting is dropped and counted."""
        now = time.monotonic()
        with self._changed:
            counts = self._counts.setdefault(camera, Counts())
            counts.received += 1
            if camera in self._frames:
                counts.dropped += 1
            self._frames[camera] = now, message
            self._rounds.arrived(camera, now)
            self._changed.notify_all()

    def discard(self) -> bool:
        """Drops what is waiting and returns once the pass under way, if any, has ended.

        Returns False if it had not after four seconds; its results are thrown away then.
        """
        with self._changed:
            self._drop_waiting()
        try:
            self._between_frames(lambda: None).result(_JOIN)
        except FutureTimeout:
            with self._changed:
                self._epoch += 1
            return False
        except CancelledError:
            pass  # it is closed already
        return True

    def set_vocabulary(self, names: Sequence[str], always: bool = False) -> Future[Vocabulary]:
        """Asks for other words, cleaned already. Requests are served in their order, beside the frames.

        The future gives the vocabulary in force afterwards, or raises InstformerError and the old one stays. The same
        words again change nothing, unless ``always``.
        """
        future: Future[Vocabulary] = Future()
        with self._changed:
            if self._stopped:
                future.cancel()
            else:
                self._requests.put((tuple(names), always, future))
        return future

    def set_settings(self, settings: Any) -> Future[None]:
        """The engine works with these from the next frame on."""
        return self._between_frames(lambda: setattr(self._engine, "settings", settings))

    def reset(self, camera: str | None = None) -> Future[None]:
        """Forgets the tracks of one camera, or of all, before the next frame."""
        return self._between_frames(partial(self._engine.reset, camera))

    def counts(self) -> dict[str, Counts]:
        """What became of each camera's frames so far."""
        with self._changed:
            return {camera: replace(counts) for camera, counts in self._counts.items()}

    @property
    def device_memory(self) -> int:
        """Bytes on the GPU."""
        return self._engine.device_memory

    @property
    def device(self) -> str:
        """Where the engine runs."""
        return str(self._engine.device)

    @property
    def shortage(self) -> str:
        """What the engine does at present for want of memory; "" for nothing."""
        return self._engine.shortage

    def close(self) -> bool:
        """Ends the threads (waiting for the pass under way) and closes the engine. Can be called twice.

        Returns False if a thread was still at work after four seconds; as soon as that has ended, the engine is closed
        and its memory given back. If it returns True that is left to the caller, who still holds the engine.
        """
        self._stop()
        self._requests.put(None)
        deadline = time.monotonic() + _JOIN
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            self._left = not self._closed
        return not self._left

    def _stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._epoch += 1
            for _, future in self._jobs:
                future.cancel()
            self._jobs.clear()
            self._drop_waiting()
            self._changed.notify_all()

    def _drop_waiting(self) -> None:
        """Call it with the lock held."""
        for camera in self._frames:
            self._counts[camera].dropped += 1
        self._frames.clear()

    def _live(self, run: Callable[[], None]) -> None:
        """A thread's life. The last one to end closes the engine."""
        try:
            run()
        except BaseException as error:  # neither a frame's nor a job's: those are seen to one by one
            self._stop()
            self._requests.put(None)
            self._outlet.died(error)
        finally:
            with self._changed:
                self._alive -= 1
                last = not self._alive
            if last:
                try:
                    self._engine.close()
                except Exception as error:
                    self._outlet.complain("engine", error)
                with self._changed:
                    self._closed = True
                if self._left:
                    give_back_freed_memory()

    def _between_frames(self, job: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        with self._changed:
            if self._stopped:
                future.cancel()
            else:
                self._jobs.append((job, future))
                self._changed.notify_all()
        return future

    def _run_vocabulary(self) -> None:
        """The vocabulary thread: encodes words in the order of the requests."""
        while True:
            request = self._requests.get()
            if request is None:
                return
            names, always, future = request
            if self._stopped:
                future.cancel()
            elif future.set_running_or_notify_cancel():
                _settle(future, partial(self._exchange, names, always))

    def _exchange(self, names: tuple[str, ...], always: bool) -> Vocabulary:
        if names == self._engine.vocabulary.names and not always:
            return self._engine.vocabulary
        encoded = self._engine.encode_vocabulary(names, self._give_way)

        def swap() -> Vocabulary:
            vocabulary = self._engine.use_vocabulary(encoded)
            try:
                self._outlet.vocabulary_changed(vocabulary, self._engine.unknown_words)
            except Exception as error:
                self._outlet.complain("vocabulary", error)
            return vocabulary

        try:
            return self._between_frames(swap).result()
        except CancelledError:
            raise InstformerError(_CLOSING) from None

    def _give_way(self, seconds: float) -> None:
        """Called after every bit of encoding, which took so long: while frames flow, two thirds of the time are theirs.

        Raises InstformerError if the pipeline is being closed, so that this need not wait for the rest.
        """
        with self._changed:
            if time.monotonic() - self._last_pass < _FLOWING:
                self._changed.wait_for(lambda: self._stopped, 2 * seconds)
            if self._stopped:
                raise InstformerError(_CLOSING)

    def _run(self) -> None:
        """The worker. Whatever goes wrong with a frame or a job, the next one is served, unless nothing goes right."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or bool(self._jobs) or bool(self._frames))
                if self._frames:
                    self._gather()
                if self._stopped:
                    return
                jobs, self._jobs = self._jobs, []
                frames, self._frames = self._frames, {}
            for job, future in jobs:
                if future.set_running_or_notify_cancel():
                    _settle(future, job)
            if frames:
                self._answer(frames)
                self._last_pass = time.monotonic()

    def _gather(self) -> None:
        """Waits for the images that are due, so that one pass takes the whole round."""
        deadline = time.monotonic() + self.round_wait
        while not self._stopped:
            now = time.monotonic()
            if now >= deadline or not self._rounds.due(self._frames, now, deadline - now):
                return
            self._changed.wait(deadline - now)

    def _answer(self, messages: dict[str, tuple[float, M]]) -> None:
        taken, epoch = time.monotonic(), self._epoch
        frames: dict[str, P] = {}
        decoding: dict[str, float] = {}
        for camera, (_, message) in messages.items():
            started = time.perf_counter()
            try:
                frames[camera] = self._outlet.decode(camera, message)
            except Exception as error:
                self._refuse(camera, error)
            decoding[camera] = time.perf_counter() - started
        if not frames:
            return
        try:
            answers = self._engine.step({camera: frame.image for camera, frame in frames.items()})
        except Exception as error:
            for camera in frames:
                self._refuse(camera, error)
            self._in_vain += not isinstance(error, InstformerError)
            if self._in_vain >= _HOPELESS or isinstance(error, DeviceLostError):
                raise
            return
        self._in_vain = 0
        self._tell_shortage()
        for camera, answer in answers.items():
            if epoch != self._epoch:
                self._count(camera, "dropped")
                continue
            waited = taken - messages[camera][0]
            answer.timings = {"wait": waited, "decode": decoding[camera], **answer.timings}
            try:
                self._outlet.publish(camera, frames[camera], answer)
                self._count(camera, "answered")
            except Exception as error:
                self._refuse(camera, error)

    def _tell_shortage(self) -> None:
        """Says it once when memory becomes short."""
        before, self._told = self._told, self._engine.shortage
        if self._told and not before:
            self._outlet.complain("engine", InstformerError(self._told))

    def _refuse(self, camera: str, error: Exception) -> None:
        self._count(camera, "refused" if isinstance(error, InstformerError) else "failed")
        self._outlet.complain(camera, error)

    def _count(self, camera: str, what: str) -> None:
        with self._changed:
            counts = self._counts[camera]
            setattr(counts, what, getattr(counts, what) + 1)


def _settle(future: Future[Any], job: Callable[[], Any]) -> None:
    """Does the job; whoever asked for it gets the result or the exception."""
    try:
        result = job()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
