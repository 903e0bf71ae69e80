"""Our checkpoint: one safetensors file whose header holds the model's config and the licences of its parts.

Nothing in it is ever executed: safetensors holds arrays and text alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as read_tensors
from safetensors.torch import save_file

from instformer_ros.model.config import ModelConfig
from instformer_ros.model.instformer import InstFormer
from instformer_ros.structures import InstformerError
from instformer_ros.weights.layout import some_of

FORMAT = "instformer_ros/1"
_MOST_HEADER = 16 << 20  # bytes; that of the largest network here has a hundredth of it
_DEEPEST, _WIDEST = 256, 2**17  # layers, and any other number, that a config may have; CLIP has 49408 tokens


def save(
    model: InstFormer,
    path: Path,
    licences: Mapping[str, str],
    notes: Mapping[str, str] | None = None,
    lossless: bool = False,
) -> None:
    """Writes a checkpoint.

    Args:
        model: the network; its config goes into the header.
        path: the file to write; replaced whole or not at all.
        licences: part ("proposals", "clip", …) to the licence of its weights.
        notes: anything worth keeping about how it was made.
        lossless: an array that half precision would change is kept as it is; otherwise all are rounded to half.
    """
    tensors = {key: _shrunk(value.cpu(), lossless).contiguous() for key, value in model.state_dict().items()}
    header = {
        "format": FORMAT,
        "config": json.dumps(model.config.to_dict()),
        "licences": json.dumps(dict(licences)),
        "notes": json.dumps(dict(notes or {})),
    }
    _check(path, "would have values that are not finite in half precision in", _not_finite(tensors))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.touch()
    mode = partial.stat().st_mode  # as the umask has it; save_file leaves a file that only its maker can read
    save_file(tensors, partial, header)
    partial.chmod(mode)
    partial.replace(path)


def read_header(path: Path) -> dict[str, object]:
    """The header of a checkpoint: ``config``, ``licences`` and ``notes`` as dictionaries.

    Raises:
        InstformerError: the file is missing, truncated, or no checkpoint of ours.
    """
    if not path.is_file():
        raise InstformerError(f"checkpoint {path} does not exist; give 'toyvis' or the path of a .safetensors file")
    if not os.access(path, os.R_OK):
        raise InstformerError(f"checkpoint {path} may not be read; check its permissions")
    try:
        with path.open("rb") as start:
            length = int.from_bytes(start.read(8), "little")
        if _MOST_HEADER < length < path.stat().st_size:
            raise InstformerError(f"checkpoint {path}: its header has {length} bytes, at most {_MOST_HEADER} are read")
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InstformerError(
            f"checkpoint {path} is truncated or no safetensors file ({error}); copy or build it again"
        ) from error
    if header.get("format") != FORMAT:
        found = f"format '{header['format']}'" if "format" in header else "no format of ours"
        raise InstformerError(f"checkpoint {path} has {found}, not '{FORMAT}'; build one with this version")
    try:
        parsed = {key: json.loads(header[key]) for key in ("config", "licences", "notes")}
    except (KeyError, RecursionError, ValueError) as error:
        raise InstformerError(f"checkpoint {path}: its header is damaged ({error}); copy or build it again") from error
    return parsed


def load(path: Path) -> InstFormer:
    """Builds the network of a checkpoint, in float32 on the CPU, ready for inference.

    Raises:
        InstformerError: what :func:`read_header` raises; no network can have its sizes; or keys are missing,
            unexpected, of a wrong shape or not finite, which are named.
    """
    config = read_header(path)["config"]
    if not isinstance(config, dict):
        raise InstformerError(f"checkpoint {path}: its config is no dictionary; copy or build it again")
    _check_numbers(path, "config", config)
    parsed = ModelConfig.from_dict(config)
    with torch.device("meta"):  # no memory is taken for sizes that the arrays in the file do not have
        expected = {key: list(value.shape) for key, value in _build(path, parsed).state_dict().items()}
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            _check(path, "lacks", [k for k in expected if k not in keys])
            _check(path, "has the unexpected", [k for k in keys if k not in expected])
            wrong = [k for k in keys if file.get_slice(k).get_shape() != expected[k]]
            _check(path, "has a wrong shape for", wrong)
        tensors = read_tensors(path.read_bytes())  # the file's own get_tensor leaks two objects per array (0.8.0)
    except (SafetensorError, OSError) as error:
        raise InstformerError(f"checkpoint {path} is truncated ({error}); copy or build it again") from error
    _check(path, "has values that are not finite in", _not_finite(tensors))
    model = _build(path, parsed)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


def _shrunk(value: torch.Tensor, lossless: bool) -> torch.Tensor:
    """In half precision, if that is right."""
    half = value.half() if value.is_floating_point() else value
    return value if lossless and not torch.equal(half.to(value.dtype), value) else half


def _check_numbers(path: Path, name: str, value: object) -> None:
    """Refuses sizes for which building the network, even without its arrays, would take for ever."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_numbers(path, str(key), item)
    elif isinstance(value, list):
        for item in value:
            _check_numbers(path, name, item)
    elif isinstance(value, int | float):
        most = _DEEPEST if name.endswith(("layers", "depths")) else _WIDEST
        if not abs(value) <= most:  # also refuses NaN
            raise InstformerError(
                f"checkpoint {path}: {name:.40} is {value!r:.20} in its config; at most {most} is built"
            )


def _build(path: Path, config: ModelConfig) -> InstFormer:
    try:
        return InstFormer(config)
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:  # torch's own
        reason = str(error).partition("\n")[0]
        raise InstformerError(f"checkpoint {path}: no network has its config ({reason}); build it again") from error


def _not_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    return [key for key, value in tensors.items() if not torch.isfinite(value).all()]


def _check(path: Path, problem: str, keys: list[str]) -> None:
    if keys:
        raise InstformerError(f"checkpoint {path} {problem} {some_of(keys)}; copy or build it again")
