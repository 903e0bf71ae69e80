"""Timing side by side: what is compared runs in turns, so that a busy machine slows all of it alike."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass
class Series:
    """Repeated timings of one thing, in seconds."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # of all threads of this process: waiting for a core does not count

    def summary(self) -> dict[str, float]:
        """Median and 99th percentile in milliseconds, and calls a second at the median."""
        wall, cpu = 1e3 * np.array(self.wall), 1e3 * np.array(self.cpu)
        return {
            "median_ms": float(np.median(wall)),
            "p99_ms": float(np.percentile(wall, 99)),
            "cpu_median_ms": float(np.median(cpu)),
            "per_second": float(1e3 / np.median(wall)),
            "runs": len(wall),
        }

    def ratio(self, other: Series) -> dict[str, float]:
        """This over ``other``, round by round: median and quartiles, of the wall clock and of processor time."""
        result: dict[str, float] = {}
        for clock in ("wall", "cpu"):
            pairs = np.array(getattr(self, clock)) / np.array(getattr(other, clock))
            low, middle, high = np.percentile(pairs, [25, 50, 75])
            result |= {clock: float(middle), f"{clock}_q25": float(low), f"{clock}_q75": float(high)}
        return result


def interleave(
    contenders: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, warm_up: int = 2
) -> dict[str, Series]:
    """Times each contender once a round; every other round goes backwards through them."""
    series = {name: Series() for name in contenders}
    for turn in range(-warm_up, rounds):
        for name in list(contenders)[:: 1 if turn % 2 else -1]:
            wait_for(device)
            wall, cpu = time.perf_counter(), time.process_time()
            contenders[name]()
            wait_for(device)
            if turn >= 0:
                series[name].wall.append(time.perf_counter() - wall)
                series[name].cpu.append(time.process_time() - cpu)
    return series


def wait_for(device: torch.device) -> None:
    """Until a GPU has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def environment(device: torch.device) -> dict[str, Any]:
    """What a number needs beside it: machine, load, versions, commit."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),  # runnable processes over the last minute; above 0 before us = shared
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    """Of the source tree that this runs from; None for an installed package."""
    here = Path(__file__).resolve().parent
    try:
        run = subprocess.run(["git", "-C", here, "describe", "--always", "--dirty"], capture_output=True, text=True)
    except OSError:
        return None
    return run.stdout.strip() or None
