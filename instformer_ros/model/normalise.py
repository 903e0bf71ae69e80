"""Pictures as a network that was trained on ImageNet or by CLIP wants them."""

from __future__ import annotations

import torch
from torch import Tensor


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(images - mean) / std for (B, 3, H, W) images and (3, 1, 1) statistics, in the images' own layout."""
    if not images.is_contiguous(memory_format=torch.channels_last):
        return (images - mean) / std
    # whole rows at once: channel by channel, three numbers are too few for the processor's vectors
    width = images.shape[-1]
    rows = images.permute(0, 2, 3, 1).flatten(2)
    rows = (rows - mean.flatten().repeat(width)) / std.flatten().repeat(width)
    return rows.unflatten(2, (width, 3)).permute(0, 3, 1, 2)
