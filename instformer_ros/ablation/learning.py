"""The parts that rows train for themselves, all from the same pre-trained network. Every stage resumes."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from instformer_ros.ablation.systems import Adapters
from instformer_ros.data import toyvis
from instformer_ros.model.config import Association, Rollout, RolloutConfig
from instformer_ros.model.instclip import InstClip
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.proposals import ProposalNetwork
from instformer_ros.model.rollout import RolloutTracker
from instformer_ros.model.vocabulary import TextEncoder
from instformer_ros.training.frames import ToyFrames
from instformer_ros.training.loop import Schedule, Session, run_stage
from instformer_ros.training.run import FIRST_SEED
from instformer_ros.training.stage1 import AdapterStage, MatchedBatch, ProposalOptions, ProposalStage, match_frames
from instformer_ros.training.stage2 import RolloutStage
from instformer_ros.training.team import Team
from instformer_ros.training.tokens import ClipBatches, VideoTokens, extract

BASE, NOVEL = toyvis.class_names("base"), toyvis.class_names("novel")
_POINTS = 1024


@dataclass(frozen=True)
class Budget:
    """How much of everything, for each seed."""

    videos: int = 20  # evaluated
    named_every: int = 1  # every so many frames of them are named
    proposal_steps: int = 500
    adapter_steps: int = 300
    rollout_videos: int = 40
    rollout_steps: int = 600
    batch: int = 8  # frames a step

    def to_dict(self) -> dict[str, int]:
        """For the file that remembers what a folder holds."""
        return asdict(self)


def train_proposals(model: InstFormer, margin: float, seed: int, budget: Budget, folder: Path) -> ProposalNetwork:
    """Goes on with the proposal network under L_SC of another margin.

    Frames show unlabelled novel objects beside the labelled base ones: they train as "no object", and there L_SC has
    something to prove.
    """
    proposals = copy.deepcopy(model.proposals).requires_grad_(True)
    stage = ProposalStage(proposals, ProposalOptions(points=_POINTS, margin=margin))
    batches = ToyFrames(budget.batch, 100 + seed, BASE, NOVEL)
    schedule = Schedule(budget.proposal_steps, 2e-4, warmup=min(20, budget.proposal_steps // 5), clip=0.1)
    run_stage(f"proposals_a{margin:g}", stage, lambda: batches, schedule, _session(model, folder))
    return proposals.eval().requires_grad_(False)


def match_base_frames(
    proposals: ProposalNetwork, seed: int, budget: Budget, device: torch.device
) -> list[MatchedBatch]:
    """The adapters' lessons, seen once by the frozen proposal network: one batch for each step."""
    batches = ToyFrames(budget.batch, 200 + seed, BASE)
    lessons = []
    for step in range(budget.adapter_steps):
        torch.manual_seed(step)
        lessons.append(match_frames(proposals, batches(step).to(device), _POINTS))
    return lessons


def train_adapters(
    model: InstFormer, adapters: Adapters, lessons: list[MatchedBatch], seed: int, budget: Budget, folder: Path
) -> InstClip:
    """Fresh adapters, I_0 and R_0 around the pre-trained CLIP of ``model``, whose own adapters are not merged."""
    torch.manual_seed(seed)
    pupil = InstFormer(replace(model.config, instclip=adapters.apply(model.config.instclip)))
    instclip = pupil.instclip.to(model.instclip.pixel_mean.device)
    instclip.clip.load_state_dict(model.instclip.clip.state_dict())
    instclip.reset_tokens()
    texts = TextEncoder(instclip, model.config.clip)(BASE).clone()
    stage = AdapterStage(pupil, texts, _POINTS)
    schedule = Schedule(budget.adapter_steps, 1e-3, warmup=min(20, budget.adapter_steps // 5), clip=1.0)
    session = _session(model, folder)
    run_stage(f"adapters_{adapters.name}", stage, lambda: lambda step: lessons[step], schedule, session)
    instclip.merge_lora()
    return instclip.eval().requires_grad_(False)


def extract_tokens(model: InstFormer, seed: int, budget: Budget, folder: Path) -> list[VideoTokens]:
    """Query + instance tokens of base videos, for stage 2; read back where they have been extracted before."""

    def video(index: int) -> toyvis.ToyVideo:
        return toyvis.ToyVideo(FIRST_SEED + 10_000 * seed + index, BASE)

    team = _session(model, folder).team
    return list(extract(model, budget.rollout_videos, video, folder / "tokens", team))


def train_rollout(
    kind: Rollout,
    association: Association,
    mask_duplicates: bool,
    videos: list[VideoTokens],
    query_width: int,
    seed: int,
    budget: Budget,
    folder: Path,
) -> RolloutTracker:
    """Stage 2 for one kind of tracker, on tokens with or without their second half."""
    if association == "query":
        videos = [replace(video, tokens=video.tokens[..., :query_width]) for video in videos]
    torch.manual_seed(seed)
    rollout = RolloutTracker(RolloutConfig(kind, association), videos[0].tokens.shape[-1])
    stage = RolloutStage(rollout, mask_duplicates)
    schedule = Schedule(budget.rollout_steps, 1e-4, warmup=min(50, budget.rollout_steps // 5), clip=1.0)
    batches = ClipBatches(videos, 16, 300 + seed)
    session = Session(folder, Team(torch.device("cpu")), workers=0)
    name = f"rollout_{kind}_{association}" + ("_masked" if mask_duplicates else "")
    run_stage(name, stage, lambda: batches, schedule, session)
    return rollout.eval().requires_grad_(False)


def _session(model: InstFormer, folder: Path) -> Session:
    return Session(folder, Team(model.instclip.pixel_mean.device), workers=0)
