"""Text embeddings kept in memory and on disk: 482 names x 14 prompts take minutes on a CPU, and words come back."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from instformer_ros.model.vocabulary import TextEncoder

_KEPT = 8192  # embeddings kept in memory: 16 MiB at 512 numbers each, more than any vocabulary and its negatives
_ON_DISK = 16384  # files of a model, a block of the disk each: 64 MiB
_NAMES = 16  # names embedded at once
_BRISK = 0.03  # seconds: while frames flow, a bit of encoding should not take much longer


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/instformer_ros/text``, by default below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "instformer_ros" / "text"


class TextCache:
    """Embeds names, each once. The key is (text model and prompts, name), so that models never mix.

    A cache that cannot be read or written costs time and nothing else.
    """

    def __init__(
        self, encoder: TextEncoder, folder: Path | None = None, kept: int = _KEPT, on_disk: int = _ON_DISK
    ) -> None:
        """``kept``: how many embeddings stay in memory, those used last; ``on_disk``: about how many there."""
        self._encoder = encoder
        self._folder = (folder or default_folder()) / encoder.fingerprint()
        self._kept = kept
        self._on_disk = on_disk
        self._unchecked = on_disk  # files written since they were counted: the first time at the first
        self._memory: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, names: Sequence[str], width: int, pause: Callable[[float], None] | None = None) -> Tensor:
        """(len(names), width) float32 on the CPU. Thread-safe; calls wait for each other.

        Names are read and new ones embedded bit by bit, and ``pause`` is called after each bit with the seconds it
        took. It may sleep, to leave the device to others, or raise, to give up; what was embedded until then is kept.
        """
        with self._lock:
            distinct = dict.fromkeys(names)
            embeddings = self._recall(list(distinct), width, pause)
            for name, embedding in self._embed([name for name in distinct if name not in embeddings], pause):
                embeddings[name] = self._memory[name] = embedding
                self._write(name, embedding)
            while len(self._memory) > self._kept:
                self._memory.popitem(last=False)
        return torch.stack([embeddings[name] for name in names]) if names else torch.zeros(0, width)

    def clear(self) -> None:
        """Frees the memory; the disk keeps everything."""
        with self._lock:
            self._memory.clear()

    def _recall(self, names: Sequence[str], width: int, pause: Callable[[float], None] | None) -> dict[str, Tensor]:
        """Those in memory or else on disk; they count as used. A thousand files take as long as several frames."""
        embeddings = {}
        for start in range(0, len(names), _NAMES):
            started = time.perf_counter()
            for name in names[start : start + _NAMES]:
                found = self._memory.get(name)
                if found is None:
                    found = self._read(name, width)
                if found is not None:
                    embeddings[name] = self._memory[name] = found
                    self._memory.move_to_end(name)
            if pause is not None:
                pause(time.perf_counter() - started)
        return embeddings

    def _embed(self, names: Sequence[str], pause: Callable[[float], None] | None) -> Iterator[tuple[str, Tensor]]:
        """In bits of a fixed size, or, if others wait, of one that takes about as long as they may be kept waiting."""
        size, done = (1 if pause else _NAMES), 0
        while done < len(names):
            bit = names[done : done + size]
            started = time.perf_counter()
            embeddings = self._encoder(bit).cpu()
            seconds = time.perf_counter() - started
            done += len(bit)
            yield from zip(bit, embeddings, strict=True)
            if pause is not None:
                if seconds < _BRISK / 2:
                    size = min(2 * size, _NAMES)
                elif seconds > _BRISK:
                    size = max(1, size // 2)
                pause(seconds)

    def _file(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.f32"

    def _read(self, name: str, width: int) -> Tensor | None:
        try:
            data = np.fromfile(self._file(name), np.float32)
        except OSError:
            return None
        unit = data.shape == (width,) and np.isfinite(data).all() and abs(float(np.linalg.norm(data)) - 1) < 1e-3
        return torch.from_numpy(data) if unit else None

    def _write(self, name: str, embedding: Tensor) -> None:
        file = self._file(name)
        partial = file.with_suffix(f".{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            embedding.numpy().astype(np.float32).tofile(partial)
            partial.replace(file)
            self._unchecked += 1
            if self._unchecked > self._on_disk // 8:
                self._unchecked = 0
                self._prune()
        except OSError:
            return

    def _prune(self) -> None:
        """Words may change every second for weeks: of too many files the oldest go. Others may write beside us."""
        files = [(file.stat().st_mtime, file) for file in self._folder.iterdir()]
        for _, file in sorted(files)[: max(0, len(files) - self._on_disk)]:
            file.unlink(missing_ok=True)
