"""Where a frame's time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by stage: ``with watch("masks"): ...`` adds to that stage's."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        """``seconds``: goes on with these."""
        self.seconds: dict[str, float] = {} if seconds is None else seconds

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def copy(self) -> Stopwatch:
        """Another one that goes on from here."""
        return Stopwatch(dict(self.seconds))
