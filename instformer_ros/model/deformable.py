"""Multi-scale deformable attention (Zhu et al. 2021, Deformable DETR, Eq. 3) in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shapes = Sequence[tuple[int, int]]  # (H_l, W_l) of every level, as Python ints, so that nothing waits for the device


def deformable_attention(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Samples ``value`` at ``locations`` and sums with ``weights``.

    Args:
        value: (B, S, M, D) with S = sum of H_l * W_l over the levels, M heads.
        shapes: (H_l, W_l) of every level.
        locations: (B, Q, M, L, K, 2) sampling points, x then y, in [0, 1] over each map (outside counts as zero).
        weights: (B, Q, M, L, K), summing to one over (L, K).

    Returns:
        (B, Q, M * D)
    """
    on_cpu = value.device.type == "cpu" and not torch.is_grad_enabled()
    sample = _gather_rows if on_cpu and min(map(min, shapes)) > 1 else _sample_maps
    return sample(value, shapes, locations, weights)


def _sample_maps(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Level by level with ``grid_sample``: the form for GPUs and for training."""
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


def _gather_rows(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Four weighted sums of rows of ``value``, one for each neighbour of a point: the form for inference on a CPU.

    Nothing is sampled into memory before it is summed, and ``value`` stays as the projection left it, one row of D
    numbers for each token and head. Maps of at least 2 x 2.
    """
    batch, tokens, heads, width = value.shape
    queries, each = locations.shape[1], (heads, len(shapes), locations.shape[4])
    size = level_sizes(shapes, locations)
    breadth, height = (size[None, :, i, None].expand(each).flatten() for i in (0, 1))  # (M*L*K,)
    starts = (size.prod(-1).cumsum(0) - size.prod(-1))[None, :, None].expand(each).flatten()
    head = torch.arange(heads).repeat_interleave(each[1] * each[2])

    points = locations.flatten(2, 4)  # (B, Q, M*L*K, 2)
    left, in_left, in_right = _neighbours(points[..., 0] * breadth - 0.5, breadth)
    top, in_top, in_bottom = _neighbours(points[..., 1] * height - 0.5, height)
    row = torch.addcmul(left, top, breadth).add_(starts).mul_(heads).add_(head).int()  # exact in float up to 2^24
    row += (torch.arange(batch, dtype=torch.int32) * tokens * heads)[:, None, None]
    below = (breadth * heads).int()

    table, bag = value.reshape(-1, width), each[1] * each[2]
    output = value.new_zeros(batch * queries * heads, width)
    weights = weights.flatten(2)
    for rows, vertical in ((row, weights * in_top), (row + below, weights * in_bottom)):
        for step, horizontal in ((0, in_left), (heads, in_right)):
            share = (vertical * horizontal).to(value.dtype).view(-1, bag)
            output += F.embedding_bag((rows + step).view(-1, bag), table, mode="sum", per_sample_weights=share)
    return output.view(batch, queries, heads * width)


def _neighbours(position: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The lower of the two pixels that a position lies between, and the shares of both.

    At the border that pixel stays within the map; a share is 1 - distance or nothing, so that outside counts as zero.
    """
    low = position.floor().clamp_(min=0).minimum(size - 2)
    distance = position - low
    near = (1 - distance.abs()).relu_()
    far = distance.sub_(1).abs_().neg_().add_(1).relu_()
    return low, near, far


def level_sizes(shapes: Shapes, like: Tensor) -> Tensor:
    """(L, 2) width and height of every level. Filled on the device: copying from the host would wait for it."""
    return torch.stack([torch.cat([like.new_full((1,), w), like.new_full((1,), h)]) for h, w in shapes])


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

    def forward(self, query: Tensor, reference: Tensor, value: Tensor, shapes: Shapes) -> Tensor:
        """Attends from ``query`` to ``value``.

        Args:
            query: (B, Q, C), position already added.
            reference: (Q, 2) reference points, x then y, in [0, 1].
            value: (B, S, C).
            shapes: (H_l, W_l) of every level.

        Returns:
            (B, Q, C)
        """
        value = self.value_proj(value).unflatten(-1, (self.heads, -1))
        each = (self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).to(reference.dtype)  # in pixels of their level
        scale = level_sizes(shapes, reference).reciprocal()[None, :, None].expand(*each, 2).flatten()
        locations = torch.addcmul(reference.repeat(1, math.prod(each)), offsets, scale)  # one pass over (B, Q, M*L*K*2)
        logits = self.attention_weights(query).unflatten(-1, (self.heads, -1)).to(reference.dtype)
        weights = (logits - logits.logsumexp(-1, keepdim=True)).exp()  # softmax, which is slow over so few
        sampled = deformable_attention(
            value, shapes, locations.unflatten(-1, (*each, 2)), weights.unflatten(-1, each[1:])
        )
        return self.output_proj(sampled)
