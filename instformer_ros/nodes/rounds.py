"""When to start a pass over several cameras: their images of one moment belong into one."""

from __future__ import annotations

from collections.abc import Container


class Rounds:
    """Learns the rhythm of every camera, and so which of them is worth waiting for.

    A camera is due when its next image should come within the wait. One that is overdue by a whole interval has
    stopped; it is waited for no more until it comes again, so the others keep their rate.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._interval: dict[str, float] = {}

    def arrived(self, camera: str, now: float) -> None:
        """Notes an image. ``now``: steady seconds."""
        last = self._last.get(camera)
        self._last[camera] = now
        if last is None:
            return
        gap, known = now - last, self._interval.get(camera)
        # One long gap (the camera was unplugged) must not make it look slow for long.
        self._interval[camera] = gap if known is None else 0.75 * known + 0.25 * min(gap, 2 * known)

    def due(self, waiting: Container[str], now: float, wait: float) -> bool:
        """Whether a camera that is not among the ``waiting`` should send its image within ``wait`` seconds."""
        return any(
            interval - wait <= now - self._last[camera] < 2 * interval
            for camera, interval in self._interval.items()
            if camera not in waiting
        )
