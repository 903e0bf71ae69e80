"""Where a model runs, and what it means when that device fails."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from instformer_ros.structures import DeviceLostError, InstformerError

# As CUDA, cuBLAS and cuDNN, and torch's allocator for CPUs have it, in small letters.
_NO_MEMORY = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")


def find_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` as a device that exists.

    Raises:
        InstformerError: it does not.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InstformerError(f"device '{name}' is unknown; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InstformerError(f"device '{name}' is not supported; use auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InstformerError(f"device '{name}' does not exist, this machine has {count} CUDA devices; use auto or cpu")
    return device


def is_out_of_memory(error: BaseException | None) -> bool:
    """Does the error, or one that it was raised in the wake of, say that memory does not suffice?"""
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def is_lost(device: torch.device) -> bool:
    """Does a GPU fail even at nothing? An error that corrupts CUDA's context is met again by every later call."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


@contextmanager
def device_errors(device: torch.device) -> Iterator[None]:
    """Says of a failure within what it means for the user; other errors go through as they are.

    Raises:
        DeviceLostError: the device is of no use to this process any more.
        InstformerError: its memory does not suffice.
    """
    try:
        yield
    except InstformerError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise InstformerError(
                f"memory of device '{device}' does not suffice: end other programs on it, or use a smaller model"
            ) from error
        if is_lost(device):
            reason = str(error).strip().partition("\n")[0]
            raise DeviceLostError(
                f"device '{device}' is lost ({reason}): end this process and start it anew"
            ) from error
        raise


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: torch's on a GPU, the whole process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
