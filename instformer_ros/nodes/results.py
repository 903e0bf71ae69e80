"""The way of a pass's results out of the node, in a thread of its own beside the next pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic

from instformer_ros.nodes.protocols import P, Pending


@dataclass(frozen=True)
class PassResults(Generic[P]):
    """What came of one pass, by camera."""

    epoch: int  # that the pass began in
    frames: Mapping[str, P]
    answers: Mapping[str, Pending]
    before: Mapping[str, dict[str, float]]  # the pass: seconds by stage
    ended: float  # when the pass did; of time.perf_counter


class ResultsQueue(Generic[P]):
    """Holds at most one pass's results until the results thread takes them, in the order of the passes.

    The worker begins a pass only while none wait, with the newest frames of that moment. So nothing queues up where
    publication is slower than the network: results wait for one publication at most.

    All but :meth:`run` is for those who hold the lock.
    """

    def __init__(
        self, lock: threading.RLock, taken: Callable[[], None], publish: Callable[[PassResults[P]], None]
    ) -> None:
        """``taken``: called under the lock whenever :attr:`free` or :attr:`idle` has become true."""
        self._lock = lock
        self._taken = taken
        self._publish = publish
        self._come = threading.Condition(lock)
        self._waiting: PassResults[P] | None = None
        self._busy = self._ended = False

    @property
    def free(self) -> bool:
        """Whether no results wait; some may be on their way out."""
        return self._waiting is None

    @property
    def idle(self) -> bool:
        """Whether all results are out."""
        return self._waiting is None and not self._busy

    def put(self, results: PassResults[P]) -> None:
        """Hands the results of a pass over. Only while :attr:`free`."""
        assert self._waiting is None
        self._waiting = results
        self._come.notify()

    def end(self) -> PassResults[P] | None:
        """Ends the thread once it has published what it is at. Returns the results that waited, for they never will."""
        self._ended = True
        self._come.notify()
        results, self._waiting = self._waiting, None
        return results

    def run(self) -> None:
        """The results thread. What ``publish`` raises ends it."""
        while True:
            with self._lock:
                self._come.wait_for(lambda: self._ended or self._waiting is not None)
                if self._waiting is None:
                    return
                results, self._waiting = self._waiting, None
                self._busy = True
                self._taken()
            try:
                self._publish(results)
            finally:
                del results  # pictures: not to be kept until the next ones come
                with self._lock:
                    self._busy = False
                    self._taken()
