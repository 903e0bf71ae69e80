"""What a process holds: memory by kind, threads, open files. Linux alone: from /proc."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("RssAnon", "RssFile", "RssShmem")


def memory(pid: int) -> dict[str, int]:
    """Bytes in RAM by kind: its own, of mapped files, in shared memory. Raises OSError if the process has ended."""
    sizes = {}
    for line in (Path("/proc") / str(pid) / "status").read_text().splitlines():
        kind, _, size = line.partition(":")
        if kind in KINDS:
            sizes[kind] = 1024 * int(size.split()[0])
    if not sizes:
        raise ProcessLookupError(f"process {pid} has ended")
    return sizes


def _compared(first: float, last: float) -> dict[str, float]:
    growth = round(last / max(first, 1.0) - 1, 4)
    return {"start_MB": round(first / 1e6, 1), "end_MB": round(last / 1e6, 1), "growth": growth}


class Resources:
    """Memory, threads and open files of a process, sampled again and again."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._started = time.monotonic()
        self.rows: list[tuple[float, ...]] = []  # seconds, bytes of each of KINDS, threads, open files

    def sample(self) -> None:
        """Adds a row, unless the process has ended."""
        folder = Path("/proc") / str(self._pid)
        try:
            sizes = memory(self._pid)
            threads, files = len(list((folder / "task").iterdir())), len(list((folder / "fd").iterdir()))
        except (OSError, IndexError, ValueError):
            return  # it has ended, which is noticed elsewhere
        self.rows.append((time.monotonic() - self._started, *(sizes[kind] for kind in KINDS), threads, files))

    def growth(self, settled: float) -> dict[str, Any]:
        """The time after ``settled`` seconds against the end: memory as a ratio - 1, the others as counts.

        Of both a quarter of the time in between is looked at, and 10 s at least. "growth" compares medians, "held" the
        least of RssAnon: what the process does not let go of even when it rests.
        """
        table = np.array(self.rows)
        window = max(10.0, (table[-1, 0] - settled) / 4)
        first = table[(table[:, 0] >= settled) & (table[:, 0] < settled + window)]
        last = table[table[:, 0] >= table[-1, 0] - window]
        a, b = np.median(first, 0), np.median(last, 0)
        sizes = {kind: _compared(a[n], b[n]) for n, kind in enumerate(KINDS, 1)}
        sizes["held"] = _compared(first[:, 1].min(), last[:, 1].min())
        return {**sizes, "threads_growth": float(b[4] - a[4]), "files_growth": float(b[5] - a[5])}

    def course(self, points: int = 12) -> dict[str, list[float]]:
        """Megabytes of each kind, as medians of so many stretches of the run."""
        parts = [part for part in np.array_split(np.array(self.rows), points) if len(part)]
        return {
            kind: [round(float(np.median(part[:, n])) / 1e6, 1) for part in parts] for n, kind in enumerate(KINDS, 1)
        }
