"""Multi-scale deformable pixel decoder (Cheng et al. 2022, Mask2Former, Sec. 3.2.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instformer_ros.model.config import ProposalConfig
from instformer_ros.model.deformable import DeformableAttention
from instformer_ros.model.position import sine_position

GROUPS = 32  # of every group normalisation


class EncoderLayer(nn.Module):
    """Deformable self-attention over all levels, then a feed-forward network; post-norm."""

    def __init__(self, config: ProposalConfig, levels: int) -> None:
        super().__init__()
        width = config.width
        self.self_attn = DeformableAttention(width, levels, config.heads, config.points)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, config.encoder_feedforward)
        self.linear2 = nn.Linear(config.encoder_feedforward, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        x = self.norm1(x + self.self_attn(x + position, reference, x, shapes))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x), inplace=True)))


class PixelDecoder(nn.Module):
    """Backbone features to mask features of stride 4 and memories of stride 32, 16, 8."""

    def __init__(self, config: ProposalConfig, channels: Sequence[int]) -> None:
        super().__init__()
        width = config.width
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inputs, width, 1), nn.GroupNorm(GROUPS, width)) for inputs in channels[:0:-1]
        )
        self.level_embed = nn.Parameter(torch.randn(len(self.input_proj), width))
        self.layers = nn.ModuleList(EncoderLayer(config, len(self.input_proj)) for _ in range(config.encoder_layers))
        self.lateral = nn.Sequential(nn.Conv2d(channels[0], width, 1, bias=False), nn.GroupNorm(GROUPS, width))
        self.smooth = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.GroupNorm(GROUPS, width))
        self.mask_features = nn.Conv2d(width, width, 1)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Four maps of stride 4 to 32 -> mask features (B, C, H/4, W/4) and memories [(B, C, h, w)], coarse first."""
        maps = [project(x) for project, x in zip(self.input_proj, reversed(features[1:]), strict=True)]
        shapes = [(x.shape[-2], x.shape[-1]) for x in maps]
        position = torch.cat(
            [
                (sine_position(h, w, x.shape[1], x).flatten(1) + self.level_embed[level, :, None]).t()
                for level, (x, (h, w)) in enumerate(zip(maps, shapes, strict=True))
            ]
        )  # (S, C)
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)  # (B, S, C)
        reference = _reference_points(shapes, tokens)
        for layer in self.layers:
            tokens = layer(tokens, position, reference, shapes)
        pieces = tokens.split([h * w for h, w in shapes], 1)
        memories = [x.unflatten(1, shape).permute(0, 3, 1, 2) for x, shape in zip(pieces, shapes, strict=True)]
        fine = self.lateral(features[0])
        fine = fine + F.interpolate(memories[-1], fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.mask_features(F.relu(self.smooth(fine), inplace=True)), memories


def _reference_points(shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Pixel centres of all levels, (S, 2), x then y, in [0, 1]; half precision would move them by pixels."""
    points = []
    dtype, device = torch.promote_types(like.dtype, torch.float32), like.device
    for height, width in shapes:
        y = (torch.arange(height, dtype=dtype, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=dtype, device=device) + 0.5) / width
        points.append(torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1).flatten(0, 1))
    return torch.cat(points)
