"""Reading a benchmark's json file: errors name the file, the entry and the key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instformer_ros import masks as mask_tools
from instformer_ros.structures import InstformerError


def read_json(path: str | Path) -> Any:
    """What a json file holds.

    Raises:
        InstformerError: it is missing, cannot be read, or is no json.
    """
    path = Path(path)
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InstformerError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise InstformerError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:  # of json and of text that is no UTF-8
        raise InstformerError(f"{path}: not a whole json file ({error}); fetch it again") from error


class Entry:
    """One json object of a file, with a name for errors: ``Entry(data, "val.json, video 3")``."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, Mapping):
            raise InstformerError(f"{where}: {_short(data)} where an object with keys should stand; check the format")
        self._data, self.where = data, where

    def get(self, key: str) -> Any:
        """The value as it is; None where the key is missing."""
        return self._data.get(key)

    def integer(self, key: str) -> int:
        """A whole number."""
        value = self._need(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise self._bad(key, value, "a whole number")
        return int(value)

    def text(self, key: str) -> str:
        """A string that is not empty."""
        value = self._need(key)
        if not isinstance(value, str) or not value:
            raise self._bad(key, value, "a text")
        return value

    def items(self, key: str) -> Sequence[Any]:
        """A list."""
        value = self._need(key)
        if not isinstance(value, list):
            raise self._bad(key, value, "a list")
        return value

    def entries(self, key: str, what: str) -> list[Entry]:
        """A list of objects, each called "WHAT ID" in errors, by its ``id`` or its number."""
        out = []
        for number, item in enumerate(self.items(key)):
            label = item.get("id", f"number {number}") if isinstance(item, Mapping) else f"number {number}"
            out.append(Entry(item, f"{self.where}, {what} {label}"))
        return out

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        value = self.items(key)
        for item in value:
            if not isinstance(item, str):
                raise self._bad(key, item, "texts")
        return list(value)

    def error(self, text: str) -> InstformerError:
        """An error about this entry, to be raised."""
        return InstformerError(f"{self.where}: {text}")

    def _need(self, key: str) -> Any:
        if key not in self._data:
            raise self.error(f"key '{key}' is missing; is this the right file for this benchmark?")
        return self._data[key]

    def _bad(self, key: str, value: Any, wanted: str) -> InstformerError:
        return self.error(f"key '{key}' is {_short(value)}; expected {wanted}")


def mask_counts(segmentation: Any, height: int, width: int, where: str) -> bytes | None:
    """Compressed run lengths of a mask in any of the files' forms; None for null, and for a mask without a pixel."""
    if not segmentation:
        return None
    try:
        rle = mask_tools.parse(segmentation, height, width)
    except InstformerError as error:
        raise InstformerError(f"{where}: {error}; fetch the annotations again") from error
    return rle["counts"] if mask_tools.area(rle) else None


def spoken(name: str) -> str:
    """A category's name as people say it: "giant_panda" is a giant panda."""
    return " ".join(name.replace("_", " ").split())


def unique(entries: Sequence[Entry], ids: Sequence[Any], what: str) -> None:
    """Raises InstformerError if two entries bear one id or name."""
    seen = set()
    for entry, value in zip(entries, ids, strict=True):
        if value in seen:
            raise entry.error(f"a second {what} {value!r}; ids and names must be unique")
        seen.add(value)


def check_folder(images: Path) -> None:
    """Raises InstformerError if there is no such folder of pictures."""
    if not images.is_dir():
        raise InstformerError(f"folder of pictures '{images}': not there; give the folder that file names start from")


def check_picture(path: Path, video: str) -> None:
    """Raises InstformerError if a video's first picture is missing: better now than after hours."""
    if not path.exists():
        raise InstformerError(f"picture '{path}' of video '{video}': not there; is this the right folder of pictures?")


def _short(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
