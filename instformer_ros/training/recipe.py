"""Numbers of the paper's two stages on annotated data (paper Sec. 5.1); `configs/paper.toml` says whence they come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from instformer_ros.training.loop import Schedule
from instformer_ros.training.stage1 import ProposalOptions

Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class InstanceRecipe:
    """Stage 1: proposal network and InstCLIP."""

    steps: int = 6000
    batch: int = 16  # frames, over all processes
    learning_rate: float = 1e-4
    backbone_factor: float = 0.1  # of the learning rate
    weight_decay: float = 0.05
    clip: float = 0.01  # largest gradient norm
    warmup: int = 0
    points: int = 12544  # sampled points a mask
    margin: float = 0.8  # alpha of L_SC
    margin_weight: float = 2.0
    short_side: tuple[int, int] = (240, 480)  # drawn evenly, in pixels
    precision: Precision = "bf16"

    def __post_init__(self) -> None:
        _check_positive(self.steps, self.batch, self.points, *self.short_side)

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.steps, self.learning_rate, self.warmup, "step", self.weight_decay, self.clip)

    @property
    def options(self) -> ProposalOptions:
        return ProposalOptions(
            self.points, self.margin, self.margin_weight, reduced=self.precision == "bf16", frozen_norm=True
        )


@dataclass(frozen=True)
class RolloutRecipe:
    """Stage 2: rollout tracker."""

    steps: int = 600
    batch: int = 16  # clips, over all processes
    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    clip: float = 1.0
    warmup: int = 0
    videos: int = 600  # whose tokens are extracted: 15 MB each at 100 queries and 100 frames
    mask_duplicates: bool = False  # True: other queries on the same object are no negatives of it

    def __post_init__(self) -> None:
        _check_positive(self.steps, self.batch, self.videos)

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.steps, self.learning_rate, self.warmup, "step", self.weight_decay, self.clip)


@dataclass(frozen=True)
class Recipe:
    """Both stages."""

    stage1: InstanceRecipe = field(default_factory=InstanceRecipe)
    stage2: RolloutRecipe = field(default_factory=RolloutRecipe)


def _check_positive(*numbers: int) -> None:
    if min(numbers) < 1:
        raise ValueError("steps, batch, points, sizes and videos must be 1 or more")
