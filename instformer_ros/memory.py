"""What the C library does with large blocks of memory that are given back."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGE = 256 << 20  # bytes; the largest tensors of a frame and its images are smaller


def keep_freed_memory() -> None:
    """Lets the process keep what it frees, for its next frame. For programs, at their start; glibc alone knows it.

    By default every block above 128 KiB to 32 MiB goes back to the kernel, which clears page by page what the next
    frame asks for again: images and feature maps are such blocks.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has none
        return
    mallopt(_MMAP_THRESHOLD, _LARGE)
    mallopt(_TRIM_THRESHOLD, 2 * _LARGE)
