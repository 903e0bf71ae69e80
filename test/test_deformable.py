"""Deformable attention against a loop that does what the formula says, one number at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from instformer_ros.model.deformable import DeformableAttention, deformable_attention

SHAPES = [(3, 5), (2, 3), (4, 1)]
WIDE = [(3, 5), (2, 3), (4, 2)]  # no side of one pixel: the form for inference on a CPU
BATCH, QUERIES, HEADS, POINTS, WIDTH = 2, 3, 2, 2, 4


def inputs(
    dtype: torch.dtype = torch.float64, shapes: Sequence[tuple[int, int]] = SHAPES
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, sampling points (some of them outside) and weights."""
    generator = torch.Generator().manual_seed(0)
    size = sum(h * w for h, w in shapes)
    value = torch.randn(BATCH, size, HEADS, WIDTH, generator=generator, dtype=torch.float64)
    where = torch.rand(BATCH, QUERIES, HEADS, len(shapes), POINTS, 2, generator=generator, dtype=torch.float64)
    weights = torch.rand(BATCH, QUERIES, HEADS, len(shapes), POINTS, generator=generator, dtype=torch.float64)
    weights = weights / weights.sum((-2, -1), keepdim=True)
    return value.to(dtype), (where * 1.4 - 0.2).to(dtype), weights.to(dtype)


def naive(value: Tensor, locations: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Deformable DETR, Eq. 3, with bilinear sampling written out and zeros outside."""
    output = torch.zeros(BATCH, QUERIES, HEADS, WIDTH, dtype=value.dtype)
    for b in range(BATCH):
        for q in range(QUERIES):
            for m in range(HEADS):
                start = 0
                for level, (height, width) in enumerate(shapes):
                    for k in range(POINTS):
                        x = float(locations[b, q, m, level, k, 0]) * width - 0.5
                        y = float(locations[b, q, m, level, k, 1]) * height - 0.5
                        for row in (math.floor(y), math.floor(y) + 1):
                            for column in (math.floor(x), math.floor(x) + 1):
                                if 0 <= row < height and 0 <= column < width:
                                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                                    seen = value[b, start + row * width + column, m]
                                    output[b, q, m] += weights[b, q, m, level, k] * share * seen
                    start += height * width
    return output.flatten(2)


@pytest.mark.parametrize("grad", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("shapes", [SHAPES, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_equals_the_naive_loop(
    dtype: torch.dtype, tolerance: float, shapes: Sequence[tuple[int, int]], grad: bool
) -> None:
    value, locations, weights = inputs(dtype, shapes)
    wanted = naive(value.double(), locations.double(), weights.double(), shapes)
    with torch.set_grad_enabled(grad):
        result = deformable_attention(value, shapes, locations, weights)
    assert result.dtype == dtype
    assert wanted.abs().max() > 0.3
    assert (result.double() - wanted).abs().max() < tolerance


def test_gradients() -> None:
    tensors = [x.requires_grad_() for x in inputs()]
    assert torch.autograd.gradcheck(lambda v, p, w: deformable_attention(v, SHAPES, p, w), tensors)


def test_offsets_are_pixels_of_their_level_x_first() -> None:
    """Values that tell their own place show where the module looked."""
    shapes = [(6, 10), (3, 5)]
    module = DeformableAttention(4, levels=2, heads=1, points=1).double()
    ramps = []
    for height, width in shapes:
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        ramps.append(torch.stack([x / width, y / height, torch.ones_like(x), torch.zeros_like(x)], -1).flatten(0, 1))
    value = torch.cat(ramps)[None].double()
    with torch.no_grad():
        module.value_proj.weight.copy_(torch.eye(4))
        module.output_proj.weight.copy_(torch.eye(4))
        module.sampling_offsets.bias.copy_(torch.tensor([2.0, -1.0, 1.0, 0.5]))  # level 0: x, y; level 1: x, y
        module.attention_weights.bias.copy_(torch.tensor([0.0, math.log(3.0)]))  # a quarter and three quarters
    reference = torch.tensor([[0.45, 0.55]], dtype=torch.float64)
    output = module(torch.zeros(1, 1, 4, dtype=torch.float64), reference, value, shapes)[0, 0]
    x = 0.25 * (0.45 + 2 / 10) + 0.75 * (0.45 + 1 / 5)
    y = 0.25 * (0.55 - 1 / 6) + 0.75 * (0.55 + 0.5 / 3)
    assert torch.allclose(output, torch.tensor([x, y, 1.0, 0.0], dtype=torch.float64), atol=1e-7)
