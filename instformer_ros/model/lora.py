"""Low-rank adaptation (Hu et al. 2022) of CLIP's query and value projections (paper Sec. 4.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Lora(nn.Module):
    """The update of one attention layer's packed [q; k; v] projection; the rows of k stay untouched.

    B starts at zero, so that a fresh adapter changes nothing, bit for bit.
    """

    def __init__(self, width: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.query_a, self.value_a = (nn.Parameter(torch.empty(rank, width)) for _ in range(2))
        self.query_b, self.value_b = (nn.Parameter(torch.zeros(width, rank)) for _ in range(2))
        for a in (self.query_a, self.value_a):
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))

    def adapt(self, in_proj_weight: Tensor) -> Tensor:
        """(3D, D) frozen weights -> (3D, D) adapted ones, with gradients to the adapter.

        Adding the product to the weights costs less than running every token through it, and merged and unmerged are
        then the same arithmetic.
        """
        query, key, value = in_proj_weight.chunk(3)
        query = query + self.scale * (self.query_b @ self.query_a)
        value = value + self.scale * (self.value_b @ self.value_a)
        return torch.cat([query, key, value])
