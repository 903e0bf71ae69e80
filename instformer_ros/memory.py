"""What the C library does with memory that is given back to it."""

from __future__ import annotations

import ctypes
import gc
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of malloc.h
_LARGE = 256 << 20  # bytes; the largest tensors of a frame and its images are smaller


def keep_freed_memory() -> None:
    """Lets the process keep what it frees, for its next frame. For programs, at their start; glibc alone knows it.

    By default every block above 128 KiB to 32 MiB goes back to the kernel, which clears page by page what the next
    frame asks for again: images and feature maps are such blocks. And all threads share one heap, where by default
    there are up to eight for every core: a thread that starts may get any of them, and each would keep the most that
    was ever in it, out of reach of :func:`give_back_freed_memory`.
    """
    mallopt = _of_libc("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, 2 * _LARGE)
        mallopt(_ARENA_MAX, 1)


def give_back_freed_memory(collect: bool = True) -> None:
    """Collects garbage and gives what is kept for a next frame to the kernel: no frame will come for a while.

    Takes up to some tenths of a second, most of it to ``collect``. Without glibc it does no more than that.
    """
    if collect:
        gc.collect()
    malloc_trim = _of_libc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _of_libc(name: str) -> ctypes._NamedFuncPointer | None:
    """A function of the C library, if it has it: musl does not."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        function: ctypes._NamedFuncPointer = getattr(ctypes.CDLL(None), name)
    except AttributeError:
        return None
    return function
