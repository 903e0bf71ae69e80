"""Words whose CLIP text embeddings are given in a file, in place of the model's own text tower."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from instformer_ros.model.vocabulary import validate_names
from instformer_ros.structures import InstformerError

_COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)


@dataclass(frozen=True)
class ReadyWords:
    """Names with their embeddings."""

    names: tuple[str, ...]
    embeddings: Tensor  # (K, E) float32, L2-normalised

    def choose(self, words: Sequence[str]) -> ReadyWords:
        """Some of them, in the order asked for, whatever their case; none = all.

        Raises:
            InstformerError: a word has no embedding; names those that are spelt alike.
        """
        words = validate_names(words)
        if not words:
            return self
        rows: dict[str, int] = {}
        for row, name in enumerate(self.names):
            rows.setdefault(name.casefold(), row)
        for word in words:
            if word.casefold() not in rows:
                alike = ", ".join(difflib.get_close_matches(word.casefold(), list(rows))) or "none spelt alike"
                raise InstformerError(f"no embedding is given for '{word}'; of the {len(rows)} that are: {alike}")
        return ReadyWords(words, self.embeddings[[rows[word.casefold()] for word in words]])


def read_embeddings(path: Path) -> ReadyWords:
    """Reads ``FILE.npy``, (K, E) of any float type and length, or every such file in a folder, in order of name.

    The names come from the .json (a list of names, or of LVIS's categories) or .txt (one a line) file beside it that
    has as many as the array has rows; 80 rows without one are COCO's classes. Of equal names the first counts.

    Raises:
        InstformerError: there is no such file, it is damaged, or nothing beside it names its rows.
    """
    files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
    if not files:
        raise InstformerError(f"vocabulary embeddings {path}: there is no .npy file in it")
    parts = [_read(file) for file in files]
    widths = {part.embeddings.shape[1] for part in parts}
    if len(widths) > 1:
        raise InstformerError(f"vocabulary embeddings {path}: the files have widths {sorted(widths)}; give one of them")
    chosen: dict[str, Tensor] = {}
    for part in parts:
        for name, embedding in zip(part.names, part.embeddings, strict=True):
            chosen.setdefault(name, embedding)
    return ReadyWords(tuple(chosen), torch.stack(list(chosen.values())))


def _read(file: Path) -> ReadyWords:
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        # Numpy's own reason advises to let the file run code.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it cannot be read as one"
        raise InstformerError(
            f"vocabulary embeddings {file}: no .npy file of numbers ({reason}); write floats (K, E) with numpy.save"
        ) from error
    if array.ndim != 2 or array.dtype.kind != "f" or not len(array) or not np.isfinite(array).all():
        raise InstformerError(f"vocabulary embeddings {file}: {array.dtype} {array.shape}; give finite floats (K, E)")
    embeddings = F.normalize(torch.from_numpy(array.astype(np.float32)), dim=-1)
    return ReadyWords(_names(file, len(array)), embeddings)


def _names(file: Path, count: int) -> tuple[str, ...]:
    for beside in sorted(file.parent.glob("*")):
        if beside.suffix in (".json", ".txt"):
            names = _names_in(beside)
            if len(names) == count:
                return names
    if count == len(coco := tuple(_COCO.split(","))):
        return coco
    raise InstformerError(
        f"vocabulary embeddings {file}: nothing beside it names its {count} rows; write {file.stem}.txt, a name a line"
    )


def _names_in(file: Path) -> tuple[str, ...]:
    """Names in a text or JSON file; none if it holds something else."""
    try:
        text = file.read_text(encoding="utf-8")
        entries: Any = text.splitlines() if file.suffix == ".txt" else json.loads(text)
    except (OSError, ValueError):
        return ()
    if not isinstance(entries, list):
        return ()
    if all(isinstance(entry, dict) and {"id", "name"} <= entry.keys() for entry in entries):
        entries = [entry["name"] for entry in sorted(entries, key=lambda entry: entry["id"])]
    if not all(isinstance(entry, str) for entry in entries):
        return ()
    return tuple(" ".join(entry.replace("_", " ").split()) for entry in entries)
