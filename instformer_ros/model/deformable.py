"""Multi-scale deformable attention (Zhu et al. 2021, Deformable DETR, Eq. 3) in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Samples ``value`` at ``locations`` and sums with ``weights``.

    Args:
        value: (B, S, M, D) with S = sum of H_l * W_l over the levels, M heads.
        shapes: (H_l, W_l) of every level, as Python ints, so that nothing waits for the device.
        locations: (B, Q, M, L, K, 2) sampling points, x then y, in [0, 1] over each map (outside counts as zero).
        weights: (B, Q, M, L, K), summing to one over (L, K).

    Returns:
        (B, Q, M * D)
    """
    batch, _, heads, width = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    maps = value.permute(0, 2, 3, 1).reshape(batch * heads, width, -1)  # (B*M, D, S)
    grid = locations.mul(2).sub(1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (L, B*M, Q, K, 2)
    weights = weights.permute(3, 0, 2, 1, 4).flatten(1, 2).unsqueeze(2)  # (L, B*M, 1, Q, K)
    output = value.new_zeros(batch * heads, width, queries)
    start = 0
    for level, (height, breadth) in enumerate(shapes):
        level_map = maps[:, :, start : start + height * breadth].unflatten(2, (height, breadth))
        start += height * breadth
        sampled = F.grid_sample(level_map, grid[level], mode="bilinear", padding_mode="zeros", align_corners=False)
        output = output + torch.einsum("bdqk,bdqk->bdq", sampled, weights[level].expand(-1, width, -1, points))
    return output.view(batch, heads * width, queries).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Every query looks at ``points`` learnt places in each level, a few for each head."""

    def __init__(self, width: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Offsets start on rays around the query, one direction a head, farther for each further point."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        rays = torch.stack([angles.cos(), angles.sin()], -1)
        rays = (rays / rays.abs().amax(-1, keepdim=True)).view(self.heads, 1, 1, 2)
        steps = torch.arange(1, self.points + 1, dtype=torch.float32).view(1, 1, self.points, 1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((rays * steps).expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, reference: Tensor, value: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Attends from ``query`` to ``value``.

        Args:
            query: (B, Q, C), position already added.
            reference: (Q, 2) reference points, x then y, in [0, 1].
            value: (B, S, C).
            shapes: (H_l, W_l) of every level.

        Returns:
            (B, Q, C)
        """
        batch, queries, _ = query.shape
        value = self.value_proj(value).unflatten(-1, (self.heads, -1))
        offsets = self.sampling_offsets(query).view(batch, queries, self.heads, self.levels, self.points, 2)
        weights = self.attention_weights(query).view(batch, queries, self.heads, self.levels * self.points)
        weights = weights.softmax(-1).unflatten(-1, (self.levels, self.points))
        size = query.new_tensor([(w, h) for h, w in shapes])  # offsets are in pixels of their level
        locations = reference[None, :, None, None, None, :] + offsets / size[None, None, None, :, None, :]
        return self.output_proj(deformable_attention(value, shapes, locations, weights))
