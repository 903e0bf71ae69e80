"""One checkpoint from public parts: somebody's Mask2Former, somebody's CLIP, and what we trained, if anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from instformer_ros.model.config import PRESETS, ClipConfig, InstClipConfig, ModelConfig, ProposalConfig, RolloutConfig
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.negatives import COMMON
from instformer_ros.structures import InstformerError
from instformer_ros.weights import checkpoint
from instformer_ros.weights.arrays import sha256
from instformer_ros.weights.layout import differences
from instformer_ros.weights.mask2former import read_proposals
from instformer_ros.weights.openclip import find_clip

_UNTOLD = "not told; see where the file came from"
_ADAPTED = ("lora.", "instance_tokens", "register_token")  # what stage 1 teaches InstCLIP


@dataclass(frozen=True)
class Parts:
    """Where a checkpoint's parts come from."""

    proposals: Path  # Mask2Former of detectron2 or transformers
    clip: str  # see openclip.find_clip
    lora: Path | None = None  # checkpoint of ours whose LoRA, I_0 and R_0 are taken; None: training-free
    tracker: Path | None = None  # checkpoint of ours whose rollout tracker is taken; None: untrained, plain cosine
    licences: Mapping[str, str] | None = None  # "proposals", "clip" to what their authors state


def build(parts: Parts, output: Path) -> InstFormer:
    """Makes the checkpoint, without loss, and returns its network.

    Without ``lora`` it is training-free: adapters that change nothing, I_0 and R_0 = CLIP's class token, and guidance
    shifted so that a full mask is CLIP itself.

    Raises:
        InstformerError: a part is missing, damaged, not what it should be, or does not fit the others.
    """
    proposals, arrays, layout = read_proposals(parts.proposals)
    clip = find_clip(parts.clip)
    towers = clip.arrays()
    instclip = _header(parts.lora).instclip if parts.lora else InstClipConfig(shift=True)
    rollout = _header(parts.tracker).rollout if parts.tracker else RolloutConfig()
    config = ModelConfig(
        _name(proposals, clip.config), proposals, clip.config, instclip, rollout=rollout, negatives=COMMON
    )
    torch.manual_seed(0)  # LoRA's A, which matters to nothing while B is zero: the same file every time
    model = InstFormer(config).eval()
    model.proposals.load_state_dict(arrays, strict=False)
    model.instclip.clip.load_state_dict(towers)
    model.instclip.reset_tokens()
    if parts.lora:
        _take(model.instclip, parts.lora, "instclip.", _ADAPTED)
    if parts.tracker:
        _take(model.rollout, parts.tracker, "rollout.", ("",))
    told = parts.licences or {}
    licences = {part: told.get(part, _UNTOLD) for part in ("proposals", "clip")}
    notes = {
        "proposals": f"{parts.proposals.name} ({layout}), SHA-256 {sha256(parts.proposals)}",
        "clip": f"{clip.architecture}:{clip.tag}, {clip.file.name}, SHA-256 {sha256(clip.file)}",
        "lora": _origin(parts.lora, "none: neutral, training-free"),
        "tracker": _origin(parts.tracker, "none: untrained, plain cosine matching"),
    }
    checkpoint.save(model, output, licences, notes, lossless=True)
    return model


def _name(proposals: ProposalConfig, clip: ClipConfig) -> str:
    """The preset's whose sizes these are, or what the parts are called."""
    for name, preset in PRESETS.items():
        same = replace(proposals, classes=preset.proposals.classes) == preset.proposals
        if same and clip.architecture.removesuffix("-quickgelu") == preset.clip.architecture:
            return name
    return f"{proposals.backbone.kind}-{clip.architecture}".lower()


def _header(path: Path) -> ModelConfig:
    config = checkpoint.read_header(path)["config"]
    return ModelConfig.from_dict(config if isinstance(config, dict) else {})


def _take(module: torch.nn.Module, path: Path, prefix: str, starts: tuple[str, ...]) -> None:
    """Replaces the arrays of ``module`` whose names begin so by those of another checkpoint."""
    chosen = tuple(prefix + start for start in starts)
    found = {k: v for k, v in checkpoint.load(path).state_dict().items() if k.startswith(chosen)}
    wanted: dict[str, Tensor] = {prefix + k: v for k, v in module.state_dict().items()}
    faults = differences(found, {k: v for k, v in wanted.items() if k.startswith(chosen)})
    if faults:
        raise InstformerError(f"{path} {'; it '.join(faults)}: it belongs to another proposal network or CLIP")
    module.load_state_dict({k.removeprefix(prefix): v for k, v in found.items()}, strict=False)


def _origin(path: Path | None, absent: str) -> str:
    return absent if path is None else f"{path.name}, SHA-256 {sha256(path)}"
