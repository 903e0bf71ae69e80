"""Reads pickles that hold numpy arrays and plain containers, and runs nothing that they ask for.

A pickle is a program: it may name any function of any module and have it called. Here every name that it may use is
one of the few below, and these are our own readers, not numpy's functions.
"""

from __future__ import annotations

import mmap
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instformer_ros.structures import InstformerError

LARGEST = 8 << 30  # bytes of a file
_TYPES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])


def unpickle(path: Path) -> Any:
    """The contents of a pickle: numpy arrays and scalars, dictionaries, lists, tuples, numbers and text.

    Raises:
        InstformerError: it asks for anything else, which is named and not done; or it is damaged or too large.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise InstformerError(f"{path} has {size >> 30} GiB; a checkpoint has at most {LARGEST >> 30}")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Unpickler(content, str(path)).load()
    except InstformerError:
        raise
    except Exception as error:  # whatever a damaged program stumbles over
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InstformerError(f"{path} is no pickle or a damaged one ({reason}); fetch it again") from error


class _Unpickler(pickle._Unpickler):
    """The one written in Python: unlike the other it sets aside no memory on a file's mere word."""

    def __init__(self, content: mmap.mmap, name: str) -> None:
        super().__init__(content, encoding="latin1")  # as numpy asks for what Python 2 wrote
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise InstformerError(
                f"{self._name} asks for '{module}.{name}', which no checkpoint of arrays needs: refused, nothing of it "
                "was run; take the file from a source you trust, or one in safetensors"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise InstformerError(f"{self._name} refers to something outside itself ({pid!a:.40}): refused")


class _Type:
    """A numpy dtype in the making."""

    def __init__(self, code: str, *_: object) -> None:
        self._code, self._order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if any(part is not None for part in state[2:5]):
            raise ValueError("an array of records")
        self._order = state[1]

    def dtype(self) -> np.dtype[Any]:
        if self._code not in _TYPES or self._order not in ("<", ">", "=", "|"):
            raise ValueError(f"an array of type {self._code!r:.20}")
        return np.dtype(self._order + self._code)


class _Array:
    """A numpy array in the making; :func:`finished` gives it."""

    def __init__(self) -> None:
        self.array: NDArray[Any] = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, columns_first, data = state
        self.array = _array(data, kind, shape, "F" if columns_first else "C")


def _array(data: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    if isinstance(data, str):  # what Python 2 wrote
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)) or not isinstance(kind, _Type):
        raise ValueError("an array of objects")
    flat = np.frombuffer(data, kind.dtype())
    return flat.reshape(tuple(int(n) for n in shape), order="F" if order == "F" else "C").copy()


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    made = _Array()
    made.array = _array(data, kind, shape, order)
    return made


def _scalar(kind: Any, data: Any) -> Any:
    return _array(data, kind, (), "C").item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How old protocols write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"text in {encoding!r:.20}")
    return text.encode("latin1")


def _nothing() -> bytes:
    """How old protocols write no bytes."""
    return b""


def _name_only() -> None:
    """Stands for ``numpy.ndarray``, which is mentioned but need not be called."""


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _name_only,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _nothing,
}


def finished(value: Any) -> NDArray[Any] | None:
    """The array that a value of :func:`unpickle` is, or None for anything else."""
    return value.array if isinstance(value, _Array) else None
