"""The loop that every stage runs in: optimiser, schedule, progress, log, and a resume that continues bit for bit."""

from __future__ import annotations

import json
import math
import pickle
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from instformer_ros.structures import InstformerError

Losses = dict[str, Tensor]  # "loss" is what is minimised; the others are only logged


class BatchSource(Protocol):
    """Makes the batch of any step from its number alone, so that a resumed run sees the same data."""

    def __call__(self, step: int) -> Any: ...


@dataclass(frozen=True)
class Schedule:
    """AdamW with linear warm-up, then cosine to zero (``decay="cosine"``) or a tenth from 5/6 on (``"step"``)."""

    steps: int
    learning_rate: float
    warmup: int = 100
    decay: str = "cosine"
    weight_decay: float = 0.05
    clip: float = 0.1  # largest gradient norm

    def factor(self, step: int) -> float:
        """Learning rate of ``step`` (0-based), relative to the full one."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.decay == "step":
            return 1.0 if step < self.steps * 5 / 6 else 0.1
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))


class _Batches(Dataset[Any]):
    def __init__(self, source: BatchSource, steps: int) -> None:
        self._source, self._steps = source, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Any:
        return self._source(step)


def _prefetch(source: BatchSource, first: int, steps: int, workers: int) -> Iterator[Any]:
    """Batches of the steps ``first`` to ``steps`` - 1, made ahead in worker processes."""
    sampler = range(first, steps)
    return iter(
        DataLoader(
            _Batches(source, steps),
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )
    )


def parameter_groups(
    module: nn.Module, weight_decay: float, scaled: dict[str, float] | None = None
) -> list[dict[str, Any]]:
    """AdamW groups of all trainable parameters: no decay on vectors; ``scaled`` maps name prefixes to rate factors."""
    groups: dict[tuple[bool, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            factor = next((f for prefix, f in (scaled or {}).items() if name.startswith(prefix)), 1.0)
            groups[parameter.ndim > 1, factor].append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if matrix else 0.0, "factor": factor}
        for (matrix, factor), parameters in groups.items()
    ]


def run_stage(
    name: str,
    module: nn.Module,
    source: BatchSource,
    compute: Callable[[Any, int], Losses],
    schedule: Schedule,
    folder: Path,
    *,
    scaled: dict[str, float] | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    workers: int = 1,
    save_every: int = 250,
    log_every: int = 20,
    stop_after: int | None = None,
) -> None:
    """Trains ``module`` for ``schedule.steps`` steps, or the rest of them.

    Progress is kept in ``folder/NAME.pt`` (weights, optimiser, step) and ``folder/NAME.jsonl`` (one line of mean losses
    every ``log_every`` steps). A stage that has ended is loaded and left alone. With the same torch, machine type and
    thread count a resumed run on a CPU ends with the same bits as one that was never interrupted.

    Args:
        compute: losses of a batch; gets the batch and the step's number.
        stop_after: end the call early, after that many steps in all (to test the resume).

    Raises:
        InstformerError: the loss is no longer finite, or the saved progress is of another model.
    """
    optimizer = torch.optim.AdamW(
        parameter_groups(module, schedule.weight_decay, scaled), lr=schedule.learning_rate, betas=betas
    )
    state_file, log_file = folder / f"{name}.pt", folder / f"{name}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    first = _resume(state_file, module, optimizer)
    _trim(log_file, first)
    last = min(schedule.steps, stop_after or schedule.steps)
    if first >= last:
        return
    module.train()
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    started = time.monotonic()
    bar = tqdm(total=schedule.steps, initial=first, desc=name, unit="step", mininterval=1.0, dynamic_ncols=True)
    for step, batch in enumerate(_prefetch(source, first, last, workers), first):
        torch.manual_seed(step)  # sampling of points and the like: by the step alone, so that a resume repeats it
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * group["factor"] * schedule.factor(step)
        losses = compute(batch, step)
        if not torch.isfinite(losses["loss"]):
            raise InstformerError(
                f"{name}: the loss is {losses['loss'].item()} at step {step}; lower the learning rate"
            )
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, schedule.clip)
        optimizer.step()
        for key, value in losses.items():
            sums[key] += value.item()
            counts[key] += 1
        bar.update()
        if (step + 1) % log_every == 0 or step + 1 == last:
            means = {key: round(value / counts[key], 5) for key, value in sums.items()}
            bar.set_postfix({key: f"{value:.3f}" for key, value in means.items()})
            with log_file.open("a") as log:
                log.write(
                    json.dumps({"step": step + 1, "seconds": round(time.monotonic() - started, 1), **means}) + "\n"
                )
            sums.clear()
            counts.clear()
        if (step + 1) % save_every == 0 or step + 1 == last:
            _save(state_file, module, optimizer, step + 1)
    bar.close()


def _trim(log_file: Path, step: int) -> None:
    """Drops the lines of steps that will be done again: an interruption loses what was not yet saved."""
    lines = log_file.read_text().splitlines(keepends=True) if log_file.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    if len(kept) < len(lines):
        log_file.write_text("".join(kept))


def _save(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    partial = path.with_suffix(".partial")
    torch.save({"step": step, "module": module.state_dict(), "optimizer": optimizer.state_dict()}, partial)
    partial.replace(path)  # an interruption leaves the last whole file


def _resume(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
    except (pickle.UnpicklingError, RuntimeError, OSError, KeyError, ValueError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise InstformerError(f"cannot resume from {path}: {reason}; train into another folder") from error
    return int(saved["step"])
