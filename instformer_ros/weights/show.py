"""What a checkpoint is, for people."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors import safe_open

from instformer_ros.weights.checkpoint import read_header

_MIB = 1 << 20
_LONG = 96  # characters of a value


def describe(path: Path) -> str:
    """Sizes, licences and origins of a checkpoint, one a line.

    Raises:
        InstformerError: the file is missing, truncated or no checkpoint of ours.
    """
    header: dict[str, Any] = read_header(path)
    config = header["config"]
    lines = [f"{path}: {config['name']}, {path.stat().st_size / _MIB:.1f} MiB"]
    lines += [f"  {part:<10} {count / 1e6:8.2f} M weights in {types}" for part, count, types in _parts(path)]
    for title, entries in (("config", _flat(config)), ("licences", header["licences"]), ("notes", header["notes"])):
        lines.append(f"{title}:")
        lines += [f"  {key}: {_short(value)}" for key, value in entries.items() if key != "name"]
    return "\n".join(lines)


def _parts(path: Path) -> list[tuple[str, int, str]]:
    """(part, number of weights, their types) of the network's parts."""
    counts: Counter[str] = Counter()
    types: dict[str, set[str]] = {}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118  (no mapping)
            piece = file.get_slice(key)
            part, size = key.partition(".")[0], 1
            for length in piece.get_shape():
                size *= length
            counts[part] += size
            types.setdefault(part, set()).add(piece.get_dtype())
    return [(part, count, ", ".join(sorted(types[part]))) for part, count in counts.items()]


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} to {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONG or isinstance(value, str) else f"{text[:_LONG]}… ({len(value)} entries)"
