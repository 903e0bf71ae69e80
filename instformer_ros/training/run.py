"""``instformer train toyvis``: makes the embedded checkpoint from nothing, stage by stage, with resume."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from instformer_ros.data import toyvis
from instformer_ros.devices import find_device
from instformer_ros.model.clip import Tokenizer, tokens_of
from instformer_ros.model.config import toyvis_config
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.vocabulary import PROMPTS, TextEncoder
from instformer_ros.structures import InstformerError
from instformer_ros.training.curves import plot_curves
from instformer_ros.training.loop import Schedule, run_stage
from instformer_ros.training.pretrain import SceneBatches, Scenes, initialise_clip, make_scenes, pretrain_losses
from instformer_ros.training.runtime import autocast, keep_memory
from instformer_ros.training.stage1 import AdapterStage, FrameBatches, ProposalOptions, ProposalStage
from instformer_ros.training.stage2 import ClipBatches, RolloutStage, extract
from instformer_ros.weights import checkpoint

SEEN = (*toyvis.class_names("base"), *toyvis.class_names("novel"))  # what the image-text pre-training may see
BASE = toyvis.class_names("base")  # what stages 1 and 2 may see
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
    proposal_batch: int = 8
    proposal_points: int = 1024
    adapter_steps: int = 1000
    adapter_batch: int = 8
    rollout_videos: int = 40
    rollout_steps: int = 600
    rollout_batch: int = 16


SMOKE = Plan(
    scenes=1000, wide_steps=12, wide_schedule=20, wide_batch=64, close_steps=20, close_batch=64,
    again_steps=4, again_batch=64, whole_steps=4, whole_batch=16,
    proposal_steps=30, proposal_batch=4, proposal_points=256,
    adapter_steps=10, adapter_batch=4, rollout_videos=2, rollout_steps=20, rollout_batch=4,
)  # fmt: skip


def build(scenes: Scenes, seed: int) -> InstFormer:
    """The untrained embedded model, its token table cut to the words that the captions and prompts use."""
    texts = [prompt.format(name) for prompt in PROMPTS for name in toyvis.ALL_NAMES]
    torch.manual_seed(seed)
    model = InstFormer(toyvis_config(tokens_of(texts + scenes.captions), negatives=SEEN))
    initialise_clip(model.instclip.clip)
    return model


def pretrain(model: InstFormer, scenes: Scenes, plan: Plan, seed: int, folder: Path) -> None:
    """Image-text pre-training of the CLIP half, in four phases. ``scenes`` is the pool of the first."""
    instclip = model.instclip
    device = instclip.pixel_mean.device
    tokenizer = Tokenizer(model.config.clip, instclip.clip.context_length)

    def compute(batch: Any, step: int) -> Any:
        with autocast(device):
            return pretrain_losses(instclip, batch)

    def phase(name: str, pool: Scenes, batch: int, seed: int, rate: float, schedule: int, steps: int) -> None:
        batches = SceneBatches(pool, tokenizer, batch, seed)
        rates = Schedule(schedule, rate, warmup=min(100, schedule // 5), clip=1.0)
        run_stage(name, instclip.clip, batches, compute, rates, folder, betas=(0.9, 0.98), stop_after=steps)

    instclip.clip.requires_grad_(True)
    phase("pretrain", scenes, plan.wide_batch, seed, 1e-3, plan.wide_schedule, plan.wide_steps)
    closer = make_scenes(seed + 1, CLOSE, plan.scenes, SEEN)
    phase("pretrain_close", closer, plan.close_batch, seed + 1, 1e-3, plan.close_steps, plan.close_steps)
    del closer
    phase("pretrain_again", scenes, plan.again_batch, seed + 2, 5e-4, plan.again_steps, plan.again_steps)
    whole = make_scenes(seed + 3, WHOLE, plan.scenes // 5, SEEN)
    phase("pretrain_whole", whole, plan.whole_batch, seed + 3, 5e-4, plan.whole_steps, plan.whole_steps)
    instclip.clip.requires_grad_(False)
    instclip.reset_tokens()


def train_proposals(model: InstFormer, plan: Plan, seed: int, folder: Path) -> None:
    """Stage 1, the proposal network, on frames whose objects are all base ones."""
    stage = ProposalStage(model.proposals, ProposalOptions(points=plan.proposal_points))
    batches = FrameBatches(plan.proposal_batch, seed, BASE)
    schedule = Schedule(plan.proposal_steps, 5e-4, warmup=min(200, plan.proposal_steps // 5), clip=0.1)
    run_stage("proposals", stage, batches, stage, schedule, folder)


def train_adapters(model: InstFormer, plan: Plan, seed: int, folder: Path) -> None:
    """Stage 1, InstCLIP's adapters, on the masks of the trained proposal network."""
    texts = TextEncoder(model.instclip, model.config.clip)(BASE).clone()
    stage = AdapterStage(model, texts, plan.proposal_points)
    batches = FrameBatches(plan.adapter_batch, seed + 1, BASE)
    schedule = Schedule(plan.adapter_steps, 1e-3, warmup=min(50, plan.adapter_steps // 5), clip=1.0)
    run_stage("adapters", stage, batches, stage, schedule, folder)


def train_rollout(model: InstFormer, plan: Plan, seed: int, folder: Path) -> None:
    """Stage 2, the rollout tracker, on tokens extracted once."""
    device = model.instclip.pixel_mean.device
    videos = extract(model, plan.rollout_videos, seed, BASE, device)
    stage = RolloutStage(model.rollout)
    schedule = Schedule(plan.rollout_steps, 1e-4, warmup=min(50, plan.rollout_steps // 5), clip=1.0)
    run_stage("rollout", stage, ClipBatches(videos, plan.rollout_batch, seed), stage, schedule, folder, workers=0)


def train_toyvis(plan: Plan, seed: int, folder: Path, device: torch.device) -> Path:
    """All stages; those that ended in an earlier run are loaded. Returns the checkpoint's path.

    Raises:
        InstformerError: ``folder`` holds the progress of another plan or seed.
    """
    _claim(folder, plan, seed)
    scenes = make_scenes(seed, WIDE, plan.scenes, SEEN)
    model = build(scenes, seed).to(device)
    pretrain(model, scenes, plan, seed, folder)
    train_proposals(model, plan, seed, folder)
    train_adapters(model, plan, seed, folder)
    train_rollout(model, plan, seed, folder)
    path = folder / "toyvis.safetensors"
    notes = {"seed": str(seed), "plan": json.dumps(asdict(plan)), "data": "ToyVIS, generated"}
    checkpoint.save(model, path, dict.fromkeys(("proposals", "clip", "instclip", "rollout"), "Apache-2.0"), notes)
    plot_curves(folder)
    return path


def _claim(folder: Path, plan: Plan, seed: int) -> None:
    """Notes what is being trained in ``folder``, or checks that it is the same."""
    file = folder / "plan.json"
    wanted = {"seed": seed, **asdict(plan)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text(json.dumps(wanted, indent=2) + "\n")
            return
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InstformerError(f"{file}: {error}; train into another folder") from error
    if found != wanted:
        raise InstformerError(f"{folder} holds the progress of another plan or seed; train into another folder")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of ``instformer train``."""
    parser = argparse.ArgumentParser(
        prog="instformer train",
        description="Trains a model from nothing. Interrupted, the same command goes on where it was.",
    )
    parser.add_argument("what", choices=["toyvis"], help="toyvis: the embedded model")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/toyvis"), help="folder of progress and result (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = all (%(default)s)")
    parser.add_argument(
        "--smoke", action="store_true", help="a minute of each stage's first steps, to see that it runs"
    )
    arguments = parser.parse_args(argv)
    keep_memory()
    if arguments.threads > 0:
        torch.set_num_threads(arguments.threads)
    plan = SMOKE if arguments.smoke else Plan()
    path = train_toyvis(plan, arguments.seed, arguments.output, find_device(arguments.device))
    print(f"checkpoint: {path}\ncurves: {path.with_name('curves.png')}")


if __name__ == "__main__":
    main()
