"""The loop that every stage runs in: optimiser, schedule, several processes, and a resume that continues bit for bit.

Everything about a step follows from its number: its data, its learning rate and its random numbers. So there is no
state to lose, and a step is the same whether one process takes its batch whole, several share it, or it is taken in
parts one after the other.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from instformer_ros.structures import InstformerError
from instformer_ros.training import journal
from instformer_ros.training.journal import Journal
from instformer_ros.training.team import Team

Losses = dict[str, Tensor]  # "loss" is what is minimised; the others are only logged


class BatchSource(Protocol):
    """Makes any batch from its number alone. Batch n of size 2B is batches 2n and 2n + 1 of size B."""

    def __call__(self, number: int, /) -> Any: ...


class Stage(nn.Module, ABC):
    """What is trained: a module whose forward pass gives the losses of a batch.

    A loss is a mean over the whole step, though a forward pass sees only a part of it. A mean over images needs
    nothing: the loop averages the parts. A mean over objects, of which each part has another number, divides by
    ``objects``.
    """

    def objects(self, batch: Any) -> int:
        """Objects that ``batch`` is going to be divided by."""
        return len(batch)

    @abstractmethod
    def forward(self, batch: Any, step: int, objects: float) -> Losses:
        """Losses of a part of a step.

        Args:
            batch: from a :class:`BatchSource`.
            step: its number, from 0.
            objects: of one part, on the average over the parts of this step.
        """


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


@dataclass(frozen=True)
class Session:
    """What all stages of one training share."""

    folder: Path  # of progress, logs and results
    team: Team
    workers: int = 1  # processes that make batches ahead
    accumulate: int = 1  # parts that a process takes its share of a step in, one after the other
    save_every: int = 250
    log_every: int = 20
    evaluate_every: int = 0  # 0 = never
    tensorboard: bool = False

    @property
    def parts(self) -> int:
        """Parts of a step, over all processes."""
        return self.team.size * self.accumulate

    def share(self, batch: int) -> int:
        """Size of a part of a step of ``batch`` samples.

        Raises:
            InstformerError: it cannot be divided evenly.
        """
        if batch % self.parts:
            raise InstformerError(
                f"a batch of {batch} cannot be shared by {self.team.size} processes with {self.accumulate} parts each; "
                f"use a multiple of {self.parts}"
            )
        return batch // self.parts


class _Parts(Dataset[Any]):
    def __init__(self, source: BatchSource) -> None:
        self._source = source

    def __getitem__(self, number: int) -> Any:
        return self._source(number)


def _prefetch(source: BatchSource, first: int, last: int, session: Session, workers: int) -> Iterator[Any]:
    """This process's parts of the steps ``first`` to ``last`` - 1 in order, made ahead in worker processes."""
    start = session.team.rank * session.accumulate
    numbers = [step * session.parts + start + i for step in range(first, last) for i in range(session.accumulate)]
    ahead = 4 if workers else None
    return iter(
        DataLoader(_Parts(source), batch_size=None, sampler=numbers, num_workers=workers, prefetch_factor=ahead)
    )


def parameter_groups(
    module: nn.Module, weight_decay: float, scaled: Mapping[str, float] | None = None
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
    stage: Stage,
    make_source: Callable[[], BatchSource],
    schedule: Schedule,
    session: Session,
    *,
    scaled: Mapping[str, float] | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    workers: int | None = None,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    stop_after: int | None = None,
) -> None:
    """Trains ``stage`` for ``schedule.steps`` steps, or the rest of them.

    Progress is kept in ``NAME.pt`` (weights, optimiser, step), ``NAME.jsonl`` (mean losses) and
    ``NAME.evaluation.jsonl``. A stage that has ended is loaded and left alone. With the same torch, machine type,
    thread count and number of processes, a resumed run on a CPU ends with the same bits as one that was never
    interrupted.

    Args:
        make_source: called once, and only if there are steps left to do.
        scaled: prefixes of parameter names to factors of the learning rate.
        workers: other than the session's.
        evaluate: scores of the model as it stands, asked of the first process every ``session.evaluate_every`` steps
            and at the end. Must leave the model as it is.
        stop_after: end after that many steps in all, at the rates of the whole schedule.

    Raises:
        InstformerError: the loss is no longer finite, or the saved progress is of another model.
    """
    team, folder = session.team, session.folder
    groups = parameter_groups(stage, schedule.weight_decay, scaled)
    optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=betas)
    folder.mkdir(parents=True, exist_ok=True)
    state_file = folder / f"{name}.pt"
    first = journal.resume(state_file, stage, optimizer)
    last = min(schedule.steps, stop_after or schedule.steps)
    team.wait()  # before the first process writes a file that another has yet to read
    if first >= last:
        return
    log = Journal(folder, name, first, session.tensorboard) if team.leads else None
    scores = Journal(folder, f"{name}.evaluation", first, session.tensorboard) if team.leads and evaluate else None
    network = team.wrap(stage.train())
    means = _Means(team)
    started = time.monotonic()
    parts = _prefetch(make_source(), first, last, session, session.workers if workers is None else workers)
    with tqdm(
        total=schedule.steps, initial=first, desc=name, unit="step", mininterval=1.0, dynamic_ncols=True,
        disable=not team.leads,
    ) as bar:  # fmt: skip
        for step in range(first, last):
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * group["factor"] * schedule.factor(step)
            optimizer.zero_grad(set_to_none=True)
            _backward(name, stage, network, [next(parts) for _ in range(session.accumulate)], step, session, means)
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], schedule.clip)
            optimizer.step()
            bar.update()
            done, ends = step + 1, step + 1 == last
            if done % session.log_every == 0 or ends:
                losses = means.take()
                if log:
                    bar.set_postfix({key: f"{value:.3f}" for key, value in losses.items()})
                    log.write(done, losses, seconds=round(time.monotonic() - started, 1))
            if team.leads and (done % session.save_every == 0 or ends):
                journal.save(state_file, stage, optimizer, done)
            if evaluate and session.evaluate_every and (done % session.evaluate_every == 0 or ends):
                if scores:
                    scores.write(done, evaluate())
                team.wait()
    for book in (log, scores):
        if book:
            book.close()
    team.wait()  # until the progress is on disk


def _backward(
    name: str, stage: Stage, network: nn.Module, parts: list[Any], step: int, session: Session, means: _Means
) -> None:
    """Gradients of this process's parts of one step, averaged over them and the team."""
    count = torch.tensor(sum(stage.objects(part) for part in parts) / len(parts), dtype=torch.float64)
    objects = max(session.team.mean(count).item(), 1 / session.parts)
    for index, part in enumerate(parts):
        torch.manual_seed(step)  # sampling of points and the like: by the step alone, the same in all parts
        unfinished = index + 1 < len(parts) and session.team.size > 1
        waiting: AbstractContextManager[object] = network.no_sync() if unfinished else nullcontext()  # type: ignore[operator]
        with waiting:
            losses: Losses = network(part, step, objects)
            if not torch.isfinite(losses["loss"]):
                value = losses["loss"].item()
                raise InstformerError(f"{name}: the loss is {value} at step {step}; lower the learning rate")
            (losses["loss"] / len(parts)).backward()
        means.add(losses)


class _Means:
    """Means over the parts since the last line of the log."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, losses: Losses) -> None:
        for key, value in losses.items():
            self._sums[key] += value.item()
            self._counts[key] += 1

    def take(self) -> dict[str, float]:
        """Over all processes; then begins anew."""
        keys = list(self._sums)
        own = torch.tensor([self._sums[key] / self._counts[key] for key in keys], dtype=torch.float64)
        self._sums.clear()
        self._counts.clear()
        return dict(zip(keys, self._team.mean(own).tolist(), strict=True))
