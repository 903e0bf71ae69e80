"""Arrays by name out of anybody's checkpoint file. The content tells what it is, not the name; nothing is executed."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from instformer_ros.structures import InstformerError
from instformer_ros.weights.layout import some_of
from instformer_ros.weights.unpickle import finished, unpickle

_WRAPPERS = ("model", "state_dict")  # under which detectron2 and most trainings keep the weights
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # PyTorch before 1.6
_PICKLES = (".pkl", ".pickle")
_BLOCK = 1 << 20  # bytes


def read_arrays(path: Path) -> dict[str, Tensor]:
    """All arrays of a safetensors, PyTorch or pickle file, on the CPU.

    Raises:
        InstformerError: the file is missing, damaged, of another kind, holds a program or no arrays, or values that are
            not finite.
    """
    if not path.is_file():
        raise InstformerError(f"{path} does not exist; give a file of weights")
    arrays = _arrays(_content(path))
    if not arrays:
        raise InstformerError(f"{path} holds no arrays; give a file of weights")
    damaged = [key for key, value in arrays.items() if not torch.isfinite(value).all()]
    if damaged:
        raise InstformerError(f"{path} has values that are not finite in {some_of(damaged)}; fetch it again")
    return arrays


def sha256(path: Path) -> str:
    """The file's SHA-256, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _content(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(len(_LEGACY_TORCH))
    if zipfile.is_zipfile(path):
        if _is_program(path):
            raise InstformerError(
                f"{path} is a TorchScript archive, which is a program: it is not run; take the same weights in "
                "safetensors (open_clip's registry names such a file for every tag)"
            )
        return _torch_load(path)
    if start == _LEGACY_TORCH:
        return _torch_load(path)
    if start[:1] == b"\x80" or path.suffix in _PICKLES:
        return unpickle(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InstformerError(
            f"{path} is truncated, or no safetensors, PyTorch or pickle file ({error}); fetch it again"
        ) from error


def _is_program(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file stumbles over
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked:
            raise InstformerError(
                f"{path} asks for '{asked[1]}', which no checkpoint of arrays needs: refused, nothing of it was run; "
                "take the file from a source you trust, or one in safetensors"
            ) from error
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].partition("\n")[0]
        raise InstformerError(f"{path} is a damaged PyTorch file ({reason:.100}); fetch it again") from error


def _arrays(content: Any) -> dict[str, Tensor]:
    """The arrays of a dictionary, or of the one inside it; what training keeps beside them is left out."""
    if not isinstance(content, Mapping):
        return {}
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            return _arrays(content[wrapper])
    arrays = {}
    for key, value in content.items():
        array = finished(value)
        if array is not None and array.dtype.kind in "biuf":
            value = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
        if isinstance(key, str) and isinstance(value, Tensor):
            arrays[key] = value
    return arrays
