"""The way of a frame through the node, without ROS: newest frame wins, one worker runs the engine.

Four threads meet here. The executor's thread puts messages in and asks for changes; the worker takes the newest frame
of every camera and runs one pass over them; the results thread encodes the masks and publishes what came of it, while
the worker is at the next pass already; the vocabulary thread encodes words, which is slow, gives way to the frames
meanwhile, and hands the words to the worker. Whatever changes the engine is done by the worker between two passes, once
the results of the first are out: no frame ever sees half of a change, and whoever listens sees the change between two
results.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout  # the builtin one only since Python 3.11
from dataclasses import replace
from functools import partial
from typing import Any, Generic

from instformer_ros.memory import give_back_freed_memory
from instformer_ros.nodes.protocols import Counts, EngineLike, M, Outlet, P, Pending
from instformer_ros.nodes.results import PassResults, ResultsQueue
from instformer_ros.nodes.rounds import Rounds
from instformer_ros.structures import DeviceLostError, InstformerError, Vocabulary

_JOIN = 4.0  # seconds to wait for a pass to end; `ros2 launch` loses patience after five
_CLOSING = "vocabulary: the node is being cleaned up; ask again once it is configured"
_HOPELESS = 30  # failures in a row by an error of ours: we are broken for good
_FLOWING = 1.0  # seconds since the last pass for which frames count as flowing


class Pipeline(Generic[M, P]):
    """Owns the engine from now on: nobody else may call it. Call :meth:`close` in the end."""

    def __init__(self, engine: EngineLike, outlet: Outlet[M, P], round_wait: float = 0.0) -> None:
        """``round_wait``: most seconds that a pass waits for the cameras whose images are due; may be set later."""
        self.round_wait = round_wait
        self._engine = engine
        self._outlet = outlet
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._results: ResultsQueue[P] = ResultsQueue(lock, self._changed.notify_all, self._publish)
        self._frames: dict[str, tuple[float, M]] = {}  # with the time of arrival
        self._rounds = Rounds()
        self._jobs: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._stopped = self._closed = self._left = False
        self._counts: dict[str, Counts] = {}
        self._last_pass = float("-inf")
        self._epoch = 0  # results of a pass that began in another one are thrown away
        self._in_vain = 0  # times in a row that the engine failed by an error of ours, in a pass or with the masks
        self._told = ""  # the shortage of memory at the last pass
        self._requests: queue.SimpleQueue[tuple[tuple[str, ...], bool, Future[Vocabulary]] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=partial(self._live, run), name=name, daemon=True)
            for name, run in (
                ("frames", self._run),
                ("results", self._results.run),
                ("vocabulary", self._run_vocabulary),
            )
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
        """Drops what is waiting and returns once the pass under way, if any, has ended and its results are out.

        Returns False if they were not after four seconds; those that have not begun to go out are thrown away then.
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
        """Ends the threads (waiting for what they are at) and closes the engine. Can be called twice.

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
            if (unpublished := self._results.end()) is not None:
                self._drop_results(unpublished)
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
                self._changed.wait_for(self._due)
                if not self._jobs:
                    self._gather()
                if self._stopped:
                    return
                if self._jobs and not self._results.idle:
                    continue  # it came while others were waited for
                jobs, self._jobs = self._jobs, []
                frames, self._frames = self._frames, {}
            for job, future in jobs:
                if future.set_running_or_notify_cancel():
                    _settle(future, job)
            if frames:
                self._answer(frames)
                self._last_pass = time.monotonic()

    def _due(self) -> bool:
        """Whether the worker has something to do now. Frames wait for jobs, and those for the results on their way."""
        if self._stopped or self._jobs:
            return self._stopped or self._results.idle
        return bool(self._frames) and self._results.free

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
        before: dict[str, dict[str, float]] = {}
        for camera, (arrived, message) in messages.items():
            started = time.perf_counter()
            try:
                frames[camera] = self._outlet.decode(camera, message)
            except Exception as error:
                self._refuse(camera, error)
            before[camera] = {"wait": taken - arrived, "decode": time.perf_counter() - started}
        if not frames:
            return
        try:
            answers = self._engine.begin({camera: frame.image for camera, frame in frames.items()})
        except Exception as error:
            for camera in frames:
                self._refuse(camera, error)
            self._despair(error)
            return
        self._tell_shortage()
        self._hand_over(PassResults(epoch, frames, answers, before, time.perf_counter()))

    def _hand_over(self, results: PassResults[P]) -> None:
        """From the worker to the results thread."""
        with self._changed:
            if results.epoch == self._epoch:
                self._results.put(results)
            else:
                self._drop_results(results)

    def _publish(self, results: PassResults[P]) -> None:
        """The results thread's work: one pass's results."""
        answers = iter(results.answers.items())
        try:
            for camera, answer in answers:
                if results.epoch == self._epoch:
                    self._send(camera, results, answer)
                else:
                    self._count(camera, "dropped")
        finally:
            for camera, _ in answers:  # none, but for an error that ends the thread
                self._count(camera, "dropped")

    def _send(self, camera: str, results: PassResults[P], pending: Pending) -> None:
        handover = time.perf_counter() - results.ended
        try:
            answer = pending.finish()
        except Exception as error:
            self._refuse(camera, error)
            self._despair(error)
            return
        self._in_vain = 0
        answer.timings = {**results.before[camera], **answer.timings, "handover": handover}
        try:
            self._outlet.publish(camera, results.frames[camera], answer)
        except Exception as error:
            self._refuse(camera, error)
        except BaseException:
            self._count(camera, "failed")
            raise
        else:
            self._count(camera, "answered")

    def _despair(self, error: Exception) -> None:
        """Ends the thread if the engine will never answer again, to judge by its ``error``."""
        with self._changed:
            self._in_vain += not isinstance(error, InstformerError)
            if self._in_vain >= _HOPELESS or isinstance(error, DeviceLostError):
                raise error

    def _drop_results(self, results: PassResults[P]) -> None:
        for camera in results.answers:
            self._count(camera, "dropped")

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
