"""``instformer train toyvis``: makes the embedded checkpoint from nothing, stage by stage, with resume."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from instformer_ros.data import toyvis
from instformer_ros.model.clip import Tokenizer, tokens_of
from instformer_ros.model.config import toyvis_config
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.vocabulary import PROMPTS
from instformer_ros.training.loop import Schedule, run_stage
from instformer_ros.training.pretrain import Scenes, SceneBatches, initialise_clip, make_scenes, pretrain_losses
from instformer_ros.training.runtime import autocast, keep_memory


@dataclass(frozen=True)
class Plan:
    """How much of everything. ``smoke`` runs the whole way in about a minute, to see that it runs."""

    scenes: int = 40_000
    pretrain_steps: int = 1000
    pretrain_batch: int = 256


SEEN = (*toyvis.class_names("base"), *toyvis.class_names("novel"))  # what the pre-training may see


def build(scenes: Scenes, seed: int) -> InstFormer:
    """The untrained embedded model, its token table cut to the words that the captions and prompts use."""
    texts = [prompt.format(name) for prompt in PROMPTS for name in toyvis.ALL_NAMES]
    torch.manual_seed(seed)
    model = InstFormer(toyvis_config(tokens_of(texts + scenes.captions), negatives=SEEN))
    initialise_clip(model.instclip.clip)
    return model


def pretrain(model: InstFormer, scenes: Scenes, plan: Plan, seed: int, folder: Path, device: torch.device) -> None:
    """Image-text pre-training of the CLIP half."""
    instclip = model.instclip
    tokenizer = Tokenizer(model.config.clip, instclip.clip.context_length)
    batches = SceneBatches(scenes, tokenizer, plan.pretrain_batch, seed)

    def compute(batch: Any, step: int) -> Any:
        with autocast(device):
            return pretrain_losses(instclip, batch)

    instclip.clip.requires_grad_(True)
    schedule = Schedule(plan.pretrain_steps, 1e-3, warmup=min(100, plan.pretrain_steps // 5), clip=1.0)
    run_stage("pretrain", instclip.clip, batches, compute, schedule, folder, betas=(0.9, 0.98))
    instclip.clip.requires_grad_(False)
    instclip.reset_tokens()


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of ``instformer train``."""
    parser = argparse.ArgumentParser(prog="instformer train")
    parser.add_argument("--output", type=Path, default=Path("runs/toyvis"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args(argv)
    keep_memory()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cpu")
    plan = Plan()
    scenes = make_scenes(arguments.seed, plan.scenes, SEEN)
    model = build(scenes, arguments.seed).to(device)
    pretrain(model, scenes, plan, arguments.seed, arguments.output, device)


if __name__ == "__main__":
    main()
