"""Text embeddings kept in memory and on disk: 482 names x 14 prompts take minutes on a CPU, and words come back."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from instformer_ros.model.vocabulary import TextEncoder


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/instformer_ros/text``, by default below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "instformer_ros" / "text"


class TextCache:
    """Embeds names, each once. The key is (text model and prompts, name), so that models never mix.

    A cache that cannot be read or written costs time and nothing else.
    """

    def __init__(self, encoder: TextEncoder, folder: Path | None = None) -> None:
        self._encoder = encoder
        self._folder = (folder or default_folder()) / encoder.fingerprint()
        self._memory: dict[str, Tensor] = {}
        self._lock = threading.Lock()

    def __call__(self, names: Sequence[str], width: int) -> Tensor:
        """(len(names), width) float32 on the CPU. Thread-safe; calls wait for each other."""
        with self._lock:
            for name in names:
                if name not in self._memory and (found := self._read(name, width)) is not None:
                    self._memory[name] = found
            missing = [name for name in dict.fromkeys(names) if name not in self._memory]
            for name, embedding in zip(missing, self._encoder(missing).cpu(), strict=True):
                self._memory[name] = embedding
                self._write(name, embedding)
            return torch.stack([self._memory[name] for name in names]) if names else torch.zeros(0, width)

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
        except OSError:
            return
