"""What the last seconds of a camera were like: rates, latencies, stages."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

WINDOW = 5.0  # seconds
_MOST = 2048  # images remembered


@dataclass(frozen=True)
class Summary:
    """The window in numbers. Seconds and hertz; medians."""

    rate_in: float = 0.0
    rate_out: float = 0.0
    latency: float = float("nan")  # from the image's stamp until its results are published
    latency_max: float = float("nan")
    stages: Mapping[str, float] = field(default_factory=dict)  # in order
    tracks: int = 0  # at the newest image
    silence: float = 0.0  # since the last image, or since the start


@dataclass(frozen=True)
class _Answer:
    when: float
    latency: float
    stages: Mapping[str, float]
    tracks: int


class Statistics:
    """Collects over a sliding window. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Starts anew, as after a jump of the clock that the latencies are measured by."""
        with self._lock:
            self._started = self._last = self._clock()
            self._arrivals: deque[float] = deque(maxlen=_MOST)
            self._answers: deque[_Answer] = deque(maxlen=_MOST)

    def arrived(self) -> None:
        """An image has come."""
        with self._lock:
            self._last = self._clock()
            self._arrivals.append(self._last)

    def answered(self, latency: float, stages: Mapping[str, float], tracks: int) -> None:
        """Its results are out."""
        with self._lock:
            self._answers.append(_Answer(self._clock(), latency, stages, tracks))

    def summary(self) -> Summary:
        """The window until now."""
        with self._lock:
            now = self._clock()
            span = max(min(WINDOW, now - self._started), 1e-3)
            arrivals = sum(when > now - WINDOW for when in self._arrivals)
            answers = [answer for answer in self._answers if answer.when > now - WINDOW]
            silence = now - self._last
        if not answers:
            return Summary(rate_in=arrivals / span, silence=silence)
        latencies = [answer.latency for answer in answers]
        by_stage = {name: [a.stages[name] for a in answers if name in a.stages] for name in answers[-1].stages}
        return Summary(
            rate_in=arrivals / span,
            rate_out=len(answers) / span,
            latency=statistics.median(latencies),
            latency_max=max(latencies),
            stages={name: statistics.median(seconds) for name, seconds in by_stage.items()},
            tracks=answers[-1].tracks,
            silence=silence,
        )
