"""Checkpoints in other programs' layouts, with random weights, small or at the paper's size."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import open_clip
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor

from instformer_ros.model.clip import build_clip
from instformer_ros.model.config import BackboneConfig, ClipConfig, ProposalConfig, SwinConfig
from instformer_ros.model.proposals import ProposalNetwork
from instformer_ros.weights.detectron2 import DETECTRON2
from instformer_ros.weights.layout import COUNTER
from instformer_ros.weights.transformers import TRANSFORMERS

RESNET = BackboneConfig("bottleneck", 8, (16, 16, 32, 32), (2, 1, 1, 1), frozen_norm=True)
SWIN = SwinConfig(width=12, depths=(2, 2, 1, 1), heads=(1, 2, 3, 3), window=4)
ARCHITECTURE = "tiny-B-8"  # registered with open_clip by register_tiny


def proposals(backbone: BackboneConfig | SwinConfig = RESNET, classes: int = 80, seed: int = 0) -> ProposalNetwork:
    """A small Mask2Former with 8 heads, like the public ones, and no weight where it started."""
    torch.manual_seed(seed)
    config = ProposalConfig(
        backbone,
        queries=7,
        width=32,
        points=2,
        encoder_layers=2,
        encoder_feedforward=24,
        decoder_layers=3,
        decoder_feedforward=40,
        classes=classes,
    )
    net = ProposalNetwork(config).eval()
    tiny.perturb(net, seed + 1)
    return net


def detectron2_state(net: ProposalNetwork) -> dict[str, Tensor]:
    """As detectron2 keeps it: frozen layers count no batches, and the loss has a weight."""
    state = {k: v for k, v in net.state_dict().items() if not k.endswith(COUNTER)}
    return {**DETECTRON2.from_ours(state), "criterion.empty_weight": torch.ones(net.config.classes + 1)}


def write_detectron2(net: ProposalNetwork, path: Path, protocol: int = 4) -> Path:
    """A pickle as the model zoo has it."""
    arrays = {key: value.numpy() for key, value in detectron2_state(net).items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "nobody"}, protocol))
    return path


def write_transformers(net: ProposalNetwork, path: Path) -> Path:
    """safetensors or, by its suffix, a PyTorch file."""
    state = {**TRANSFORMERS.from_ours(net.state_dict()), "criterion.empty_weight": torch.ones(3)}
    if path.suffix == ".safetensors":
        save_file(state, path, {"format": "pt"})
    else:
        torch.save(state, path)
    return path


def register_tiny(folder: Path) -> None:
    """Makes open_clip know a small architecture with the whole token table."""
    model: dict[str, Any] = {**tiny.CLIP_MODEL, "text_cfg": {**tiny.CLIP_MODEL["text_cfg"], "vocab_size": 49408}}  # type: ignore[dict-item]
    folder.mkdir(exist_ok=True)
    (folder / f"{ARCHITECTURE}.json").write_text(json.dumps(model))
    open_clip.add_model_config(folder)


def clip_state(architecture: str = ARCHITECTURE, seed: int = 2) -> dict[str, Tensor]:
    """Random weights of a registered architecture."""
    torch.manual_seed(seed)
    state: dict[str, Tensor] = build_clip(ClipConfig(architecture)).state_dict()
    return state


def write_clip(path: Path, architecture: str = ARCHITECTURE, seed: int = 2) -> Path:
    """open_clip's safetensors."""
    save_file(clip_state(architecture, seed), path)
    return path
