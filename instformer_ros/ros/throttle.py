"""Complaints that repeat themselves thirty times a second, said every few seconds with a count."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

_MOST = 256  # kinds remembered: some are named by messages, which may name ever new ones


class Throttle:
    """Lets the first complaint of a kind pass at once and later ones at an interval. Thread-safe."""

    def __init__(self, interval: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        """``interval``: least seconds between two complaints of one kind."""
        self._interval = interval
        self._clock = clock
        self._lock = Lock()
        self._said: dict[str, tuple[float, int]] = {}  # kind -> when last said, how many held back since

    def __call__(self, kind: str, text: str) -> str | None:
        """The text to log now, with the number held back since the last one, or None to stay silent."""
        with self._lock:
            now = self._clock()
            said, held = self._said.get(kind, (float("-inf"), 0))
            if now - said < self._interval:
                self._said[kind] = (said, held + 1)
                return None
            self._said.pop(kind, None)  # so that the one said longest ago is the first
            self._said[kind] = (now, 0)
            if len(self._said) > _MOST:
                del self._said[next(iter(self._said))]
        return f"{text} (and {held} more in the last {now - said:.0f} s)" if held else text
