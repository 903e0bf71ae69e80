"""Freed memory stays with the process while frames come, and goes back when none will."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from instformer_ros.memory import give_back_freed_memory
from instformer_ros.weights import checkpoint

_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
_PROGRAM = """
import ctypes, resource, sys
from instformer_ros.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
size = 48 << 20
def fill():
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


# A thread with an arena of its own would keep its heap's top.
_RETURN = """
import ctypes, sys, threading
from instformer_ros.memory import give_back_freed_memory, keep_freed_memory
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def held():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1])
def fill(size, count, middle):
    blocks = [libc.malloc(size) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    if middle:
        kept.append(libc.malloc(size))  # the heap's top stays in use
    for block in blocks:
        libc.free(block)
kept, before = [], held()
fill(3 << 20, 20, True)
thread = threading.Thread(target=fill, args=(60_000, 500, False))
thread.start()
thread.join()
full = held()
give_back_freed_memory()
print(full - before, held() - before)
"""


@_GLIBC
def test_freed_memory_goes_back_when_asked() -> None:
    run = subprocess.run([sys.executable, "-c", _RETURN], capture_output=True, text=True, check=True)
    full, rest = run.stdout.split()
    assert int(full) > 60_000, "the test itself: kB that the blocks took"
    assert int(rest) < 3_000


def test_a_checkpoint_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    checkpoint.save(tiny.model(), path, {"proposals": "MIT"})

    def blocks() -> int:
        checkpoint.load(path)
        give_back_freed_memory()
        return sys.getallocatedblocks()

    arrays = len(tiny.model().state_dict())
    first = [blocks() for _ in range(4)][-1]
    assert [blocks() for _ in range(4)][-1] - first < arrays  # two an array and time, were they kept


@_GLIBC
def test_blocks_are_used_again_without_faults() -> None:
    libc_faults = {}
    for mode in ("keep", "default"):
        run = subprocess.run([sys.executable, "-c", _PROGRAM, mode], capture_output=True, text=True, check=True)
        libc_faults[mode] = int(run.stdout)
    assert libc_faults["keep"] < 50
    assert libc_faults["default"] > 100, "the test itself: without it every fill faults"
