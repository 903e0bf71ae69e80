"""Swin transformer feature pyramid (Liu et al. 2021), parameter names as in the authors' own code.

Maps stay channels-last inside: (B, H, W, C).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instformer_ros.model.config import SwinConfig

PATCH = 4
MLP_RATIO = 4
_OTHER_REGION = -100.0  # bias between tokens that only the cyclic shift brought together, as published


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learnt bias for every relative position (Eq. 4)."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        place = torch.stack([rows, columns]).flatten(1)
        down, right = place[:, :, None] - place[:, None, :] + window - 1
        index = down * (2 * window - 1) + right  # (window², window²)
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(B, windows, T, C) with T = window² tokens, bias between them (windows, 1, T, T) or None -> as ``x``."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)  # (B, windows, heads, T, d)
        mask = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # (heads, T, T)
        if bias is not None:
            mask = mask + bias.to(mask.dtype)
        attended = F.scaled_dot_product_attention(q, k, v, mask.to(q.dtype).expand(*q.shape[:-1], -1))
        return self.proj(attended.transpose(2, 3).flatten(3))


class Mlp(nn.Module):
    """Two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Attention in windows, which every second block shifts by half a window; then the MLP; pre-norm."""

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor, shifted: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), with the bias of shifted windows (windows, 1, T, T)."""
        x = x + self._attend(self.norm1(x), shifted if self.shift else None)
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor, bias: Tensor | None) -> Tensor:
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        rows, columns = x.shape[1] // self.window, x.shape[2] // self.window
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        tokens = x.unflatten(2, (columns, self.window)).unflatten(1, (rows, self.window)).transpose(2, 3)
        tokens = self.attn(tokens.flatten(3, 4).flatten(1, 2), bias)
        x = tokens.unflatten(2, (self.window, self.window)).unflatten(1, (rows, columns)).transpose(2, 3)
        x = x.flatten(3, 4).flatten(1, 2)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), (1, 2))
        return x[:, :height, :width]


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ceil(H/2), ceil(W/2), 2C)."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], -1)
        return self.reduction(self.norm(x))


class Stage(nn.Module):
    """Blocks of one resolution, and the way to the next."""

    def __init__(self, width: int, depth: int, heads: int, window: int, last: bool) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(SwinBlock(width, heads, window, (i % 2) * (window // 2)) for i in range(depth))
        self.downsample = None if last else PatchMerging(width)

    def forward(self, x: Tensor) -> Tensor:
        shifted = _shifted_bias(x.shape[1], x.shape[2], self.window, x)
        for block in self.blocks:
            x = block(x, shifted)
        return x


class PatchEmbedding(nn.Module):
    """Patches of 4x4 pixels, embedded and normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class Swin(nn.Module):
    """Image to features of stride 4, 8, 16 and 32."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.channels = tuple(config.width * 2**i for i in range(len(config.depths)))
        self.patch_embed = PatchEmbedding(config.width)
        last = len(config.depths) - 1
        self.layers = nn.ModuleList(
            Stage(width, depth, heads, config.window, i == last)
            for i, (width, depth, heads) in enumerate(zip(self.channels, config.depths, config.heads, strict=True))
        )
        for i, width in enumerate(self.channels):
            self.add_module(f"norm{i}", nn.LayerNorm(width))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W), H and W multiples of 4, to four maps (B, C_i, H/s, W/s), s = 4, 8, 16, 32."""
        x = self.patch_embed(images)
        features: list[Tensor] = []
        for i, stage in enumerate(self.layers):
            x = stage(x)
            features.append(getattr(self, f"norm{i}")(x).permute(0, 3, 1, 2))
            if i + 1 < len(self.layers):
                x = stage.downsample(x)  # type: ignore[operator]
        return features


def _shifted_bias(height: int, width: int, window: int, like: Tensor) -> Tensor:
    """Bias between the tokens of each shifted window, (windows, 1, T, T): 0 where they were neighbours all along."""

    def regions(length: int) -> Tensor:
        padded = length + -length % window
        edges = [0, padded - window, padded - window // 2, padded]
        return torch.cat(
            [torch.full((b - a,), i, device=like.device) for i, (a, b) in enumerate(pairwise(edges))]
        ).unflatten(0, (-1, window))

    down, right = regions(height), regions(width)
    region = (3 * down[:, None, :, None] + right[None, :, None, :]).flatten(2).flatten(0, 1)  # (windows, T)
    same = region[:, None, :, None] == region[:, None, None, :]
    return torch.zeros_like(same, dtype=like.dtype).masked_fill(~same, _OTHER_REGION)
