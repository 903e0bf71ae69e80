"""When a device's memory does not suffice: the same work once more with less of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from instformer_ros.devices import is_out_of_memory

_LEAN = 30.0  # seconds of lean work before all is tried again: to fail takes time, too

T = TypeVar("T")


class Shortage:
    """Does work in full, or lean for a while after memory did not suffice."""

    def __init__(self, release: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        """``release`` gives back what memory can be spared."""
        self._release = release
        self._clock = clock
        self._until = float("-inf")

    @property
    def now(self) -> bool:
        """Is work lean at present?"""
        return self._clock() < self._until

    def work(self, job: Callable[[bool], T]) -> T:
        """``job(lean)``: in full if possible. Raises what a lean job raises."""
        if not self.now:
            try:
                return job(False)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Not sooner: the traceback held the tensors of the attempt.
            self._release()
            self._until = self._clock() + _LEAN
        return job(True)
