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
        """Medians after ``settled`` seconds against those of the end: memory as a ratio - 1, the others as counts.

        The medians are of a sixth of the time in between, and of 10 s at least.
        """
        table = np.array(self.rows)
        window = max(10.0, (table[-1, 0] - settled) / 6)
        first = np.median(table[(table[:, 0] >= settled) & (table[:, 0] < settled + window)], 0)
        last = np.median(table[table[:, 0] >= table[-1, 0] - window], 0)
        sizes = {
            kind: {
                "start_MB": round(first[n] / 1e6, 1),
                "end_MB": round(last[n] / 1e6, 1),
                "growth": round(last[n] / max(first[n], 1.0) - 1, 4),
            }
            for n, kind in enumerate(KINDS, 1)
        }
        return {**sizes, "threads_growth": float(last[4] - first[4]), "files_growth": float(last[5] - first[5])}

    def course(self, points: int = 12) -> dict[str, list[float]]:
        """Megabytes of each kind, as medians of so many stretches of the run."""
        parts = [part for part in np.array_split(np.array(self.rows), points) if len(part)]
        return {
            kind: [round(float(np.median(part[:, n])) / 1e6, 1) for part in parts] for n, kind in enumerate(KINDS, 1)
        }
