"""Masked-attention transformer decoder (Cheng et al. 2022, Mask2Former, Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instformer_ros.model.config import ProposalConfig
from instformer_ros.model.position import sine_position

LEVELS = 3


class Attention(nn.Module):
    """Multi-head attention with packed [q; k; v] projections and a float bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, Q, C), (B, S, C), (B, S, C), additive bias (B, Q, S) or None -> (B, Q, C)."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if bias is None else bias[:, None].to(q.dtype)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention among the queries, feed-forward network; post-norm."""

    def __init__(self, config: ProposalConfig) -> None:
        super().__init__()
        width = config.width
        self.cross_attn = Attention(width, config.heads)
        self.cross_norm = nn.LayerNorm(width)
        self.self_attn = Attention(width, config.heads)
        self.self_norm = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, config.decoder_feedforward)
        self.linear2 = nn.Linear(config.decoder_feedforward, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, query_position: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        x = self.cross_norm(x + self.cross_attn(x + query_position, key, value, bias))
        q = x + query_position
        x = self.self_norm(x + self.self_attn(q, q, x))
        return self.norm(x + self.linear2(F.relu(self.linear1(x), inplace=True)))


@dataclass
class DecoderOutput:
    """Heads of one layer."""

    queries: Tensor  # (B, N, C) decoder-normalised
    class_logits: Tensor  # (B, N, classes + 1), "no object" last
    mask_logits: Tensor  # (B, N, H/4, W/4)


class MaskDecoder(nn.Module):
    """N learnt queries become N masks."""

    def __init__(self, config: ProposalConfig) -> None:
        super().__init__()
        width = config.width
        self.query_feat = nn.Parameter(torch.randn(config.queries, width))
        self.query_embed = nn.Parameter(torch.randn(config.queries, width))
        self.level_embed = nn.Parameter(torch.randn(LEVELS, width))
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.class_embed = nn.Linear(width, config.classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(self, mask_features: Tensor, memories: Sequence[Tensor], deep: bool = False) -> list[DecoderOutput]:
        """Decodes; the last entry is the answer.

        Args:
            mask_features: (B, C, H/4, W/4).
            memories: three maps (B, C, h, w), coarse first.
            deep: also return the heads before every layer, for deep supervision.
        """
        keys, values, small = [], [], []
        for level, memory in enumerate(memories):
            height, width = memory.shape[-2:]
            value = memory.flatten(2).transpose(1, 2) + self.level_embed[level]
            position = sine_position(height, width, memory.shape[1], memory).flatten(1).t()
            values.append(value)
            keys.append(value + position)
            # Bilinear resizing is linear and acts on space alone, the product acts on channels alone: they commute,
            # so the attention masks come from resized features, without ever making full-size masks of inner layers.
            small.append(F.interpolate(mask_features, (height, width), mode="bilinear", align_corners=False).flatten(2))
        x = self.query_feat.expand(mask_features.shape[0], -1, -1)
        outputs: list[DecoderOutput] = []
        for index, layer in enumerate(self.layers):
            level = index % LEVELS
            queries = self.decoder_norm(x)
            embedding = self.mask_embed(queries)
            if deep:
                outputs.append(self._heads(queries, embedding, mask_features))
            bias = _attention_bias(embedding.detach() @ small[level].detach())
            x = layer(x, self.query_embed, keys[level], values[level], bias)
        queries = self.decoder_norm(x)
        outputs.append(self._heads(queries, self.mask_embed(queries), mask_features))
        return outputs

    def _heads(self, queries: Tensor, embedding: Tensor, mask_features: Tensor) -> DecoderOutput:
        masks = torch.einsum("bnc,bchw->bnhw", embedding, mask_features)
        return DecoderOutput(queries, self.class_embed(queries), masks)


def _attention_bias(logits: Tensor) -> Tensor:
    """Blocks what the last mask calls background; a query whose mask is empty attends everywhere. (B, N, S) -> bias."""
    blocked = logits.sigmoid() < 0.5
    blocked = blocked & ~blocked.all(-1, keepdim=True)
    return torch.zeros_like(logits).masked_fill(blocked, float("-inf"))
