"""When to start a pass over several cameras: their images of one moment belong into one."""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from statistics import median

_REMEMBERED = 5  # gaps between a camera's images; their median heeds neither a long one (unplugged) nor a burst


class Rounds:
    """Learns the rhythm of every camera, and so which of them is worth waiting for.

    A camera is due when its next image should come within the wait, and is nearer than its last one: else that was its
    image of this round, and the next is of another. One that is overdue by a whole interval has
    stopped; it is waited for no more until it comes again, so the others keep their rate.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._gaps: dict[str, deque[float]] = {}
        self._interval: dict[str, float] = {}

    def arrived(self, camera: str, now: float) -> None:
        """Notes an image. ``now``: steady seconds."""
        last = self._last.get(camera)
        self._last[camera] = now
        if last is None:
            return
        gaps = self._gaps.setdefault(camera, deque(maxlen=_REMEMBERED))
        gaps.append(now - last)
        self._interval[camera] = median(gaps)

    def due(self, waiting: Container[str], now: float, wait: float) -> bool:
        """Whether a camera that is not among the ``waiting`` should send its image within ``wait`` seconds."""
        return any(
            interval - min(wait, interval / 2) <= now - self._last[camera] < 2 * interval
            for camera, interval in self._interval.items()
            if camera not in waiting
        )
