"""What a stage leaves on disk while it runs: its progress, and a log for people and for TensorBoard."""

from __future__ import annotations

import importlib.util
import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from instformer_ros.structures import InstformerError


def check_tensorboard() -> None:
    """Raises InstformerError: TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InstformerError(
            "--tensorboard: TensorBoard is not installed; pip install tensorboard, or leave the option out"
        )


class Journal:
    """``FOLDER/NAME.jsonl``, one line of numbers at a time, and the same for TensorBoard where asked for.

    Lines after step ``first`` are dropped: they come again, for an interruption loses what was not yet saved.
    """

    def __init__(self, folder: Path, name: str, first: int, tensorboard: bool = False) -> None:
        self._file, self._name, self._board = folder / f"{name}.jsonl", name, None
        lines = self._file.read_text().splitlines(keepends=True) if self._file.exists() else []
        kept = [line for line in lines if _step(line) <= first]
        if len(kept) < len(lines):
            self._file.write_text("".join(kept))
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # late: an extra

            self._board = SummaryWriter(str(folder / "tensorboard" / name), purge_step=first + 1)

    def write(self, step: int, numbers: Mapping[str, float], **more: float) -> None:
        """Appends a line; ``more`` is kept from TensorBoard."""
        rounded = {key: round(value, 5) for key, value in numbers.items()}
        with self._file.open("a") as log:
            log.write(json.dumps({"step": step, **more, **rounded}) + "\n")
        if self._board is not None:
            for key, value in rounded.items():
                self._board.add_scalar(f"{self._name}/{key}", value, step)

    def close(self) -> None:
        """Writes out what TensorBoard has not got yet."""
        if self._board is not None:
            self._board.close()


def _step(line: str) -> float:
    """The step of a line; one that an interruption cut short counts as never written."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def save(path: Path, stage: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Writes the progress, without what is frozen; an interruption leaves the last whole file."""
    partial = path.with_suffix(".partial")
    torch.save({"step": step, "module": _learnt(stage), "optimizer": optimizer.state_dict()}, partial)
    partial.replace(path)


def resume(path: Path, stage: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Loads the progress, if there is any. Returns the steps done.

    Learning rate, random numbers and the place in the data need no saving: they follow from the number of the step.

    Raises:
        InstformerError: the file is damaged or of another model.
    """
    if not path.exists():
        return 0
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        stage.load_state_dict({**stage.state_dict(), **saved["module"]})
        if not _learnt(stage).keys() <= saved["module"].keys():
            raise KeyError("it holds the weights of another model")
        optimizer.load_state_dict(saved["optimizer"])
        return int(saved["step"])
    except (pickle.UnpicklingError, RuntimeError, OSError, KeyError, ValueError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise InstformerError(f"cannot resume from {path}: {reason}; train into another folder") from error


def _learnt(stage: nn.Module) -> dict[str, Tensor]:
    """Weights that learn, and buffers."""
    frozen = {name for name, parameter in stage.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in stage.state_dict().items() if name not in frozen}
