"""Recipes from TOML files: the fields of a dataclass, checked by their types."""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from instformer_ros.structures import InstformerError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


_FOLDER = Path(__file__).parent / "configs"


def find_config(name: str) -> Path:
    """A config of the package by its name, or a file by its path.

    Raises:
        InstformerError: there is no such config.
    """
    if "/" in name or name.endswith(".toml"):
        return Path(name)
    path = _FOLDER / f"{name}.toml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in _FOLDER.glob("*.toml")))
        raise InstformerError(f"config '{name}' is unknown; use {known}, or the path of a .toml file")
    return path


def read_config(path: Path, default: T) -> T:
    """``default`` with the values of a TOML file; a nested dataclass is a table.

    Raises:
        InstformerError: the file cannot be read, or a key is unknown or its value of the wrong kind; it is named.
    """
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InstformerError(f"config {path}: {error}; give a TOML file") from error
    return _apply(str(path), default, data, "")


def _apply(path: str, default: T, data: dict[str, Any], prefix: str) -> T:
    kinds = get_type_hints(type(default))
    changes: dict[str, Any] = {}
    for key, value in data.items():
        name = prefix + key
        if key not in kinds:
            known = ", ".join(field.name for field in fields(default))  # type: ignore[arg-type]
            raise InstformerError(f"config {path}: '{name}' is unknown; use {known}")
        old = getattr(default, key)
        if is_dataclass(old):
            if not isinstance(value, dict):
                raise InstformerError(f"config {path}: '{name}' is {value!r}; make it a table, [{name}]")
            changes[key] = _apply(path, old, value, f"{name}.")
        else:
            changes[key] = _value(path, name, value, kinds[key])
    try:
        return replace(default, **changes)  # type: ignore[type-var]
    except ValueError as error:  # of a dataclass that checks itself
        raise InstformerError(f"config {path}: {error}") from error


def _value(path: str, name: str, value: Any, kind: Any) -> Any:
    """``value`` as ``kind``: bool, int, float, a Literal of texts, or a tuple of ints."""
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and type(value) is int:
        return value
    if kind is float and type(value) in (int, float):
        return float(value)
    choices = get_args(kind)
    if choices and isinstance(value, str) and value in choices:
        return value
    if choices and choices[0] is int and isinstance(value, list) and len(value) == len(choices):
        return tuple(_value(path, name, item, int) for item in value)
    wanted = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind)
    if wanted is None:
        pair = choices[0] is int
        wanted = f"a list of {len(choices)} whole numbers" if pair else "one of " + ", ".join(map(repr, choices))
    raise InstformerError(f"config {path}: '{name}' is {value!r}; use {wanted}")
