"""Low-rank adaptation (Hu et al. 2022) of CLIP's blocks: query and value projections by default (paper Sec. 4.2)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from instformer_ros.model.config import LoraPlacement


class BlockWeights(NamedTuple):
    """The weights of one transformer block that may be adapted."""

    in_proj: Tensor  # (3D, D) packed [q; k; v]
    fc: Tensor  # (F, D) first layer of the feed-forward network
    proj: Tensor  # (D, F) its second layer


def block_weights(block: Any) -> BlockWeights:
    """The weights of one of open_clip's residual attention blocks, as they are."""
    return BlockWeights(block.attn.in_proj_weight, block.mlp.c_fc.weight, block.mlp.c_proj.weight)


class Lora(nn.Module):
    """The updates of one block. What the placement does not name stays untouched.

    B starts at zero, so that a fresh adapter changes nothing, bit for bit.

    Args:
        width: D of the block.
        rank: of every update.
        alpha: updates are scaled by alpha / rank.
        placement: which weights are adapted (paper Tab. 8).
        hidden: F of the block; only the feed-forward placements need it.
    """

    def __init__(self, width: int, rank: int, alpha: float, placement: LoraPlacement = "qv", hidden: int = 0) -> None:
        super().__init__()
        self.scale = alpha / rank
        shapes: dict[str, tuple[int, int]] = {}  # (rows, columns) of each adapted weight
        if "qv" in placement or "qkv" in placement:
            names = ("query", "value") if placement == "qv" else ("query", "key", "value")
            shapes |= dict.fromkeys(names, (width, width))
        if "ffn" in placement:
            shapes |= {"fc": (hidden, width), "proj": (width, hidden)}
        self._names = tuple(shapes)
        for name, (_, columns) in shapes.items():
            self.register_parameter(f"{name}_a", nn.Parameter(torch.empty(rank, columns)))
        for name, (rows, _) in shapes.items():
            self.register_parameter(f"{name}_b", nn.Parameter(torch.zeros(rows, rank)))
        for name in shapes:
            nn.init.kaiming_uniform_(self.get_parameter(f"{name}_a"), a=math.sqrt(5))

    def adapt(self, weights: BlockWeights) -> BlockWeights:
        """Frozen weights -> adapted ones, with gradients to the adapter.

        Adding the product to the weights costs less than running every token through it, and merged and unmerged are
        then the same arithmetic.
        """
        in_proj, fc, proj = weights
        parts = zip(("query", "key", "value"), in_proj.chunk(3), strict=True)
        packed = torch.cat([self._adapted(name, part) for name, part in parts])
        return BlockWeights(packed, self._adapted("fc", fc), self._adapted("proj", proj))

    def _adapted(self, name: str, weight: Tensor) -> Tensor:
        if name not in self._names:
            return weight
        return weight + self.scale * (self.get_parameter(f"{name}_b") @ self.get_parameter(f"{name}_a"))
