"""What inference does not need apart is folded together, once, when a network is made ready."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from open_clip.transformer import QuickGELU
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_QUICK = 1.702  # of QuickGELU


def fold_batch_norms(network: nn.Module) -> None:
    """Every batch normalisation goes into the convolution before it (its neighbour in the same module).

    Exact up to rounding, in eval mode alone. What is no such pair stays as it is.
    """
    for parent in network.modules():
        for (name, convolution), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, norm_name, nn.Identity())


@torch.no_grad()
def fold_quick_gelu(blocks: Any) -> None:
    """CLIP's QuickGELU, x * sigmoid(1.702 x), becomes SiLU, x * sigmoid(x): one pass over memory in place of three.

    The factor goes into the layer before it and out of the one after it. Exact up to rounding. Other activations stay.

    Args:
        blocks: open_clip's residual attention blocks.
    """
    for block in blocks:
        if isinstance(block.mlp.gelu, QuickGELU):
            block.mlp.c_fc.weight.mul_(_QUICK)
            block.mlp.c_fc.bias.mul_(_QUICK)
            block.mlp.c_proj.weight.div_(_QUICK)
            block.mlp.gelu = nn.SiLU(inplace=True)
