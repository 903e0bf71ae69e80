"""A network of the embedded model's design that runs in milliseconds, with random weights in which no symmetry is left.

Freshly initialised, all instance tokens are the same, adapters do nothing and biases are zero: many a mistake would
not show. :func:`perturb` moves every weight.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from instformer_ros.model.clip import tokens_of
from instformer_ros.model.config import (
    BackboneConfig,
    ClipConfig,
    InstClipConfig,
    ModelConfig,
    ProposalConfig,
)
from instformer_ros.model.instclip import InstClip
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.vocabulary import PROMPTS

SIZE = (48, 64)  # CLIP's native picture, (H, W)
PATCH = 8
QUERIES = 6
WORDS = ("red circle", "blue star", "green ring", "mug", "red mug", "yellow cross")  # what the text tower knows

CLIP_MODEL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": list(SIZE), "layers": 3, "width": 32, "head_width": 16, "patch_size": PATCH},
    "text_cfg": {"context_length": 24, "vocab_size": 0, "width": 32, "heads": 2, "layers": 2},
}


def clip_config() -> ClipConfig:
    """A small CLIP that keeps the tokens of :data:`WORDS` and of the prompts."""
    tokens = tokens_of([prompt.format(word) for prompt in PROMPTS for word in WORDS])
    text = {**CLIP_MODEL["text_cfg"], "vocab_size": len(tokens) + 1}  # type: ignore[dict-item]
    return ClipConfig(architecture="tiny", model={**CLIP_MODEL, "text_cfg": text}, tokens=tokens)


def config(**instclip: object) -> ModelConfig:
    """The whole network; keywords change :class:`InstClipConfig`."""
    return ModelConfig(
        name="tiny",
        proposals=ProposalConfig(
            backbone=BackboneConfig(block="basic", stem=8, widths=(8, 16, 16, 32), depths=(1, 1, 1, 1)),
            queries=QUERIES,
            width=32,
            heads=4,
            points=2,
            encoder_layers=1,
            encoder_feedforward=32,
            decoder_layers=3,
            decoder_feedforward=32,
        ),
        clip=clip_config(),
        instclip=replace(InstClipConfig(lora_rank=4, lora_alpha=8.0), **instclip),  # type: ignore[arg-type]
        short_side=SIZE[0],
        long_side=2 * SIZE[1],
        negatives=("red circle", "green ring", "yellow cross"),
    )


@torch.no_grad()
def perturb(module: torch.nn.Module, seed: int = 0) -> None:
    """Moves every weight and batch statistic: I_0 become distinct, adapters active, biases non-zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "rollout" in name or name.endswith("logit_scale"):
            continue
        size = 0.5 if "instance_tokens" in name or "register_token" in name else 0.1
        parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.1 * torch.randn(buffer.shape, generator=generator)
        elif name.endswith("running_var"):
            buffer *= 0.5 + torch.rand(buffer.shape, generator=generator)


def instclip(dtype: torch.dtype = torch.float32, perturbed: bool = True, **changes: object) -> InstClip:
    """InstCLIP alone; keywords change :class:`InstClipConfig`."""
    torch.manual_seed(3)
    made = config(**changes)
    net = InstClip(made.clip, made.instclip, QUERIES)
    if perturbed:
        perturb(net, 1)
    return net.eval().to(dtype)


def model(**changes: object) -> InstFormer:
    """The whole network, ready for inference; keywords change :class:`InstClipConfig`."""
    torch.manual_seed(4)
    net = InstFormer(config(**changes))
    perturb(net, 2)
    return net.eval()


def pictures(batch: int = 2, size: tuple[int, int] = SIZE, dtype: torch.dtype = torch.float32) -> Tensor:
    """(batch, 3, H, W) RGB noise, 0-255."""
    generator = torch.Generator().manual_seed(5)
    return (255 * torch.rand(batch, 3, *size, generator=generator, dtype=torch.float64)).to(dtype)


def mask_logits(
    batch: int = 2, count: int = QUERIES, size: tuple[int, int] = SIZE, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(batch, count, ceil(H/4), ceil(W/4)) of both signs, each mask some blobs that cover part of the picture."""
    generator = torch.Generator().manual_seed(6)
    coarse = torch.randn(batch, count, 3, 4, generator=generator, dtype=torch.float64) * 4 - 1
    shape = (-(-size[0] // 4), -(-size[1] // 4))
    return torch.nn.functional.interpolate(coarse, shape, mode="bilinear", align_corners=False).to(dtype)
