"""What the tests of the training share: a plan of few steps, and a process by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from instformer_ros.data import toyvis
from instformer_ros.training import run
from instformer_ros.training.loop import Losses, Stage
from instformer_ros.training.team import Team

ALONE = Team(torch.device("cpu"))
BASE = toyvis.class_names("base")
PLAN = replace(
    run.SMOKE, scenes=80, wide_steps=2, wide_schedule=4, wide_batch=8, close_steps=2, close_batch=8, again_steps=2,
    again_batch=8, whole_steps=2, whole_batch=4, proposal_steps=40, proposal_batch=1, adapter_steps=2, adapter_batch=1,
    rollout_videos=1, rollout_steps=2, rollout_batch=2,
)  # fmt: skip


def rows(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def losses_of(stage: Stage, batch: Any) -> Losses:
    """Of a step of one part."""
    return stage(batch, 0, max(1, stage.objects(batch)))


def fit(stage: Stage, batch: Any, steps: int, rate: float) -> list[float]:
    """Losses of one batch learnt by heart."""
    optimizer = torch.optim.Adam([p for p in stage.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        torch.manual_seed(0)
        loss = losses_of(stage, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
