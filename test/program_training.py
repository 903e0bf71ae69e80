"""Trains a tiny model: what the tests of several processes and of interruptions run, some of them under torchrun."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instformer_ros.data import toyvis
from instformer_ros.training.frames import ToyFrames
from instformer_ros.training.loop import Losses, Schedule, Session, Stage, run_stage
from instformer_ros.training.stage1 import InstanceStage, ProposalOptions
from instformer_ros.training.stage2 import RolloutStage
from instformer_ros.training.team import Team, join
from instformer_ros.training.tokens import ClipBatches, VideoTokens

STEPS, BATCH = 4, 4
BASE = toyvis.class_names("base")


def train(folder: Path, team: Team, accumulate: int = 1, **session: Any) -> dict[str, Tensor]:
    """Both stages. Returns the trained weights.

    The network of stage 1 is in double precision: where a gradient is nought, as of a key's bias, Adam would make steps
    of its rounding errors, which differ with the order of the sums.
    """
    model = tiny.model().double()
    model.rollout.float()
    schedule = Schedule(STEPS, 1e-4, warmup=1, clip=1.0)
    how = Session(folder, team, workers=0, accumulate=accumulate, log_every=2, **session)
    share = how.share(BATCH)
    torch.manual_seed(0)
    texts = F.normalize(torch.randn(len(BASE), model.instclip.embed_dim), dim=-1)
    instances: Stage = InstanceStage(model, texts, ProposalOptions(points=128, frozen_norm=True))
    run_stage("instances", _doomed(instances), lambda: ToyFrames(share, 0, BASE), schedule, how)
    clips = [_video(seed, model.rollout.width) for seed in range(3)]
    run_stage("rollout", RolloutStage(model.rollout, True), lambda: ClipBatches(clips, share, 0), schedule, how)
    return {name: value for name, value in model.state_dict().items() if not name.startswith("instclip.clip")}


def train_until_killed(folder: Path, step: int) -> None:
    """As :func:`train`, alone, but at ``step`` of stage 1 the process is killed. Progress is saved every 3 steps."""
    torch.set_num_threads(1)
    os.environ["DOOM"] = str(step)
    torch.save(train(folder, Team(torch.device("cpu")), save_every=3), folder / "trained.pt")


def _doomed(stage: Stage) -> Stage:
    doom = int(os.environ.get("DOOM", "-1"))

    def kill(module: nn.Module, arguments: tuple[Any, int, float], losses: Losses) -> None:
        if arguments[1] == doom:
            os.kill(os.getpid(), signal.SIGKILL)

    stage.register_forward_hook(kill)
    return stage


def _video(seed: int, width: int) -> VideoTokens:
    """Tokens of 12 frames with 3 + seed objects, some of which are absent now and then or seen twice."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(12, tiny.QUERIES, width, generator=generator)
    tokens = F.normalize(tokens[:1] + 2 * tokens, dim=-1)
    targets = torch.arange(3 + seed).expand(12, -1).clone()
    targets[torch.rand(targets.shape, generator=generator) < 0.3] = -1
    same = F.one_hot(targets.clamp(min=0), tiny.QUERIES).bool() & (targets >= 0)[..., None]
    same[:, 0, -1] = True
    return VideoTokens(tokens, targets, same)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join("cpu") as together:
        weights = train(Path(sys.argv[1]), together)
        if together.leads:
            torch.save(weights, Path(sys.argv[1]) / "trained.pt")
