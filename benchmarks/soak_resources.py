"""What a process holds: memory by kind, threads, open files. Linux alone: from /proc."""

from __future__ import annotations

from pathlib import Path

_KINDS = ("RssAnon", "RssFile", "RssShmem")


def memory(pid: int) -> dict[str, int]:
    """Bytes in RAM by kind: its own, of mapped files, in shared memory. Raises OSError if the process has ended."""
    sizes = {}
    for line in (Path("/proc") / str(pid) / "status").read_text().splitlines():
        kind, _, size = line.partition(":")
        if kind in _KINDS:
            sizes[kind] = 1024 * int(size.split()[0])
    if not sizes:
        raise ProcessLookupError(f"process {pid} has ended")
    return sizes
