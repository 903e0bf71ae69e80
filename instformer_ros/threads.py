"""How the threads that share one matrix product wait for each other."""

from __future__ import annotations

import os

_SPINS = "0"


def wait_without_spinning() -> None:
    """Lets the threads of torch sleep while they wait. For programs, at their start: after its import is too late.

    By default a thread of OpenMP, GNU's as torch has it on Linux, spins a while at the end of every operation. On a
    busy robot it so keeps the very thread that it waits for from running, and a frame of many operations can take
    ten times as long. What the environment says goes first.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
