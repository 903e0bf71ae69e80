"""What a process holds: memory by kind, threads, open files. Linux alone: from /proc."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def _median(table: NDArray[np.float64], start: float, end: float) -> NDArray[np.float64]:
    """Of the rows from ``start`` to ``end`` seconds, column by column; NaN where there is none."""
    rows = table[(table[:, 0] >= start) & (table[:, 0] < end)]
    return np.median(rows, 0) if len(rows) else np.full(table.shape[1], np.nan)


class Resources:
    """Memory, threads and open files of a process, sampled again and again."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._started = time.monotonic()
        self.rows: list[tuple[float, ...]] = []  # seconds, bytes of each of KINDS, threads, open files
        self.resting: list[tuple[float, int]] = []  # seconds, bytes of RssAnon

    def sample(self, at_rest: bool = False) -> None:
        """Adds a row, unless the process has ended. ``at_rest``: it is deactivated, and has given back what it can."""
        folder = Path("/proc") / str(self._pid)
        try:
            sizes = memory(self._pid)
            threads, files = len(list((folder / "task").iterdir())), len(list((folder / "fd").iterdir()))
        except (OSError, IndexError, ValueError):
            return  # it has ended, which is noticed elsewhere
        if at_rest:
            self.resting.append((time.monotonic() - self._started, sizes[KINDS[0]]))
        else:
            self.rows.append((time.monotonic() - self._started, *(sizes[kind] for kind in KINDS), threads, files))

    def growth(self, settled: float) -> dict[str, Any]:
        """The time after ``settled`` seconds against the end: memory as a ratio - 1, the others as counts.

        Of both, a quarter of the time in between is looked at, and 10 s at least; medians. "at_rest" is RssAnon of the
        samples at rest, and left out where there were none.
        """
        table = np.array(self.rows)
        end = float(table[-1, 0])
        window = max(10.0, (end - settled) / 4)
        first, last = (settled, settled + window), (end - window, end + 1.0)
        a, b = _median(table, *first), _median(table, *last)
        sizes = {kind: _compared(a[n], b[n]) for n, kind in enumerate(KINDS, 1)}
        if self.resting:
            a_rest, b_rest = _median(np.array(self.resting), *first), _median(np.array(self.resting), *last)
            if not (np.isnan(a_rest[1]) or np.isnan(b_rest[1])):
                sizes["at_rest"] = _compared(a_rest[1], b_rest[1])
        return {**sizes, "threads_growth": float(b[4] - a[4]), "files_growth": float(b[5] - a[5])}

    def course(self, points: int = 12) -> dict[str, list[float]]:
        """Megabytes of each kind, as medians of so many stretches of the run."""
        parts = [part for part in np.array_split(np.array(self.rows), points) if len(part)]
        return {
            kind: [round(float(np.median(part[:, n])) / 1e6, 1) for part in parts] for n, kind in enumerate(KINDS, 1)
        }
