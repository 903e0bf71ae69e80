"""``instformer train toyvis``: makes the embedded checkpoint from nothing, stage by stage, with resume."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from instformer_ros.data import toyvis
from instformer_ros.model.clip import Tokenizer, tokens_of
from instformer_ros.model.config import toyvis_config
from instformer_ros.model.instclip import InstClip
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.vocabulary import PROMPTS, TextEncoder
from instformer_ros.training.claim import claim, kept
from instformer_ros.training.frames import ToyFrames
from instformer_ros.training.loop import Losses, Schedule, Session, Stage, run_stage
from instformer_ros.training.pretrain import (
    SceneBatch,
    SceneBatches,
    Scenes,
    initialise_clip,
    make_scenes,
    pretrain_losses,
)
from instformer_ros.training.runtime import autocast
from instformer_ros.training.stage1 import AdapterStage, ProposalOptions, ProposalStage
from instformer_ros.training.stage2 import RolloutStage
from instformer_ros.training.tokens import ClipBatches, extract
from instformer_ros.training.validation import toyvis_scores
from instformer_ros.weights import checkpoint

SEEN = (*toyvis.class_names("base"), *toyvis.class_names("novel"))  # what the image-text pre-training may see
BASE = toyvis.class_names("base")  # what stages 1 and 2 may see
STAGES = (
    *("pretrain", "pretrain_close", "pretrain_again", "pretrain_whole"),
    *("proposals", "proposals_again", "adapters", "rollout"),
)
FIRST_SEED = 1_000_000  # of the videos of stage 2; evaluation seeds lie far above
WIDE, CLOSE, WHOLE = (96, 96), (64, 64), (192, 256)  # scenes of the pre-training, (H, W) in pixels


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    scenes: int = 40_000
    wide_steps: int = 1250  # pre-training on windows of 96x96, which hold the largest objects ...
    wide_schedule: int = 2000  # ... at the rates of a schedule of so many steps
    wide_batch: int = 128
    close_steps: int = 1800  # then on windows of 64x64: three times the scenes in the same time
    close_batch: int = 256
    again_steps: int = (
        300  # wide windows once more, then whole frames: shapes learnt among 64 patches are lost among 768
    )
    again_batch: int = 128
    whole_steps: int = 150
    whole_batch: int = 32
    proposal_steps: int = 3000
    proposal_again_steps: int = 4000  # a second cycle of the learning rate, on other frames
    proposal_batch: int = 8
    proposal_points: int = 1024
    adapter_steps: int = 1000
    adapter_batch: int = 8
    rollout_videos: int = 40
    rollout_steps: int = 600
    rollout_batch: int = 16

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} is {value}; use 1 or more")


SMOKE = Plan(
    scenes=1000, wide_steps=12, wide_schedule=20, wide_batch=64, close_steps=20, close_batch=64,
    again_steps=4, again_batch=64, whole_steps=4, whole_batch=16,
    proposal_steps=30, proposal_again_steps=10, proposal_batch=4, proposal_points=256,
    adapter_steps=10, adapter_batch=4, rollout_videos=2, rollout_steps=20, rollout_batch=4,
)  # fmt: skip


MakeScenes = Callable[[], Scenes]


def build(tokens: Sequence[int], seed: int) -> InstFormer:
    """The untrained embedded model, its token table cut to ``tokens``."""
    torch.manual_seed(seed)
    model = InstFormer(toyvis_config(tuple(tokens), negatives=SEEN))
    initialise_clip(model.instclip.clip)
    return model


def words_of(scenes: Scenes) -> tuple[int, ...]:
    """Ids of the tokens that the captions and the prompts use."""
    return tokens_of([prompt.format(name) for prompt in PROMPTS for name in toyvis.ALL_NAMES] + scenes.captions)


class PretrainStage(Stage):
    """Image-text pre-training of CLIP. Every part of a step has negatives of its own."""

    def __init__(self, instclip: InstClip) -> None:
        super().__init__()
        self.clip = instclip.clip.requires_grad_(True)
        self._instclip = [instclip]  # in a list: the rest of it is no part of what is trained

    def objects(self, batch: SceneBatch) -> int:
        """Images."""
        return len(batch.images)

    def forward(self, batch: SceneBatch, step: int, objects: float) -> Losses:
        """Loss and accuracy."""
        with autocast(self._instclip[0].pixel_mean.device):
            return pretrain_losses(self._instclip[0], batch)


def pretrain(model: InstFormer, wide: MakeScenes, plan: Plan, seed: int, session: Session) -> None:
    """Image-text pre-training of the CLIP half, in four phases. ``wide`` makes the pool of the first."""
    instclip = model.instclip
    tokenizer = Tokenizer(model.config.clip, instclip.clip.context_length)
    stage = PretrainStage(instclip)

    def phase(name: str, pool: MakeScenes, batch: int, seed: int, rate: float, schedule: int, steps: int) -> None:
        share = session.share(batch)
        rates = Schedule(schedule, rate, warmup=min(100, schedule // 5), clip=1.0)
        run_stage(
            name, stage, lambda: SceneBatches(pool(), tokenizer, share, seed), rates, session,
            betas=(0.9, 0.98), stop_after=steps,
        )  # fmt: skip

    def closer() -> Scenes:
        return make_scenes(seed + 1, CLOSE, plan.scenes, SEEN)

    def whole() -> Scenes:
        return make_scenes(seed + 3, WHOLE, plan.scenes // 5, SEEN)

    phase("pretrain", wide, plan.wide_batch, seed, 1e-3, plan.wide_schedule, plan.wide_steps)
    phase("pretrain_close", closer, plan.close_batch, seed + 1, 1e-3, plan.close_steps, plan.close_steps)
    phase("pretrain_again", wide, plan.again_batch, seed + 2, 5e-4, plan.again_steps, plan.again_steps)
    phase("pretrain_whole", whole, plan.whole_batch, seed + 3, 5e-4, plan.whole_steps, plan.whole_steps)
    instclip.clip.requires_grad_(False)
    instclip.reset_tokens()


def train_proposals(model: InstFormer, plan: Plan, seed: int, session: Session, validation: int = 0) -> None:
    """Stage 1, the proposal network, on frames whose objects are all base ones."""
    stage = ProposalStage(model.proposals, ProposalOptions(points=plan.proposal_points))
    batch = session.share(plan.proposal_batch)
    scores = _scores(model, session, validation)

    def cycle(name: str, seed: int, steps: int) -> None:
        schedule = Schedule(steps, 5e-4, warmup=min(200, steps // 5), clip=0.1)
        run_stage(name, stage, lambda: ToyFrames(batch, seed, BASE), schedule, session, evaluate=scores)

    cycle("proposals", seed, plan.proposal_steps)
    cycle("proposals_again", seed + 50, plan.proposal_again_steps)


def train_adapters(model: InstFormer, plan: Plan, seed: int, session: Session, validation: int = 0) -> None:
    """Stage 1, InstCLIP's adapters, on the masks of the trained proposal network."""
    texts = TextEncoder(model.instclip, model.config.clip)(BASE).clone()
    stage = AdapterStage(model, texts, plan.proposal_points)
    batch = session.share(plan.adapter_batch)
    schedule = Schedule(plan.adapter_steps, 1e-3, warmup=min(50, plan.adapter_steps // 5), clip=1.0)
    scores = _scores(model, session, validation)
    run_stage("adapters", stage, lambda: ToyFrames(batch, seed + 1, BASE), schedule, session, evaluate=scores)


def train_rollout(model: InstFormer, plan: Plan, seed: int, session: Session, validation: int = 0) -> None:
    """Stage 2, the rollout tracker, on tokens extracted once."""

    def source() -> ClipBatches:
        files = extract(model, plan.rollout_videos, video, session.folder / "tokens", session.team)
        return ClipBatches(files, session.share(plan.rollout_batch), seed)

    def video(index: int) -> toyvis.ToyVideo:
        return toyvis.ToyVideo(FIRST_SEED + 10_000 * seed + index, BASE)

    schedule = Schedule(plan.rollout_steps, 3e-4, warmup=min(50, plan.rollout_steps // 5), clip=1.0)
    scores = _scores(model, session, validation)
    run_stage("rollout", RolloutStage(model.rollout), source, schedule, session, workers=0, evaluate=scores)


def train_toyvis(plan: Plan, seed: int, session: Session, validation: int = 0) -> Path:
    """All stages; those that ended in an earlier run are loaded. Returns the checkpoint's path.

    Args:
        validation: videos that the model is scored on every ``session.evaluate_every`` steps of stages 1 and 2.

    Raises:
        InstformerError: the session's folder holds the progress of another plan or seed.
    """
    folder, team = session.folder, session.team
    claim(folder, {"seed": seed, "accumulate": session.accumulate, **asdict(plan)}, team)
    wide = functools.cache(lambda: make_scenes(seed, WIDE, plan.scenes, SEEN))
    tokens = kept(folder / "tokens.json", lambda: list(words_of(wide())), team)
    model = build(tokens, seed).to(team.device)
    pretrain(model, wide, plan, seed, session)
    wide.cache_clear()
    train_proposals(model, plan, seed, session, validation)
    train_adapters(model, plan, seed, session, validation)
    train_rollout(model, plan, seed, session, validation)
    path = folder / "toyvis.safetensors"
    if team.leads:
        notes = {"seed": str(seed), "plan": json.dumps(asdict(plan)), "data": "ToyVIS, generated"}
        checkpoint.save(model, path, dict.fromkeys(("proposals", "clip", "instclip", "rollout"), "Apache-2.0"), notes)
    return path


def _scores(model: InstFormer, session: Session, videos: int) -> Callable[[], dict[str, float]] | None:
    return functools.partial(toyvis_scores, model, session.team.device, videos) if videos else None
