"""How many threads share one matrix product, and how they wait for each other."""

from __future__ import annotations

import os


def wait_without_spinning() -> None:
    """Lets the threads of torch sleep while they wait. For the nodes, at their start: after its import is too late.

    By default a thread of OpenMP, GNU's as torch has it on Linux, spins a while at the end of every operation. On free
    cores that is fastest. On a busy robot it keeps the very thread that it waits for from running, and a frame of many
    operations takes ten times as long. What the environment says goes first.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "0")


def use_threads(count: int) -> int:
    """Sets how many threads torch and OpenCV compute with on a CPU; returns the number.

    Args:
        count: 0 for one fewer than the cores that this process may use, so that a camera's driver, DDS and the
            messages find one free; what ``OMP_NUM_THREADS`` says goes before that.
    """
    import cv2
    import torch

    if count == 0 and "OMP_NUM_THREADS" in os.environ:
        chosen = torch.get_num_threads()
    else:
        chosen = count or max(1, available_cores() - 1)
        torch.set_num_threads(chosen)
    cv2.setNumThreads(chosen)
    return chosen


def available_cores() -> int:
    """The cores that this process may use: a container or ``taskset`` can give it fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
