"""Sine position embedding of feature maps (Carion et al. 2020, DETR, appendix A.4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_position(height: int, width: int, channels: int, like: Tensor, temperature: float = 10000.0) -> Tensor:
    """Normalised two-dimensional sine embedding: the first half of the channels codes y, the second half x.

    Args:
        height: rows of the map.
        width: columns of the map.
        channels: embedding width, a multiple of 4.
        like: gives dtype and device.
        temperature: base of the geometric series of wavelengths.

    Returns:
        (channels, height, width)
    """
    half = channels // 2
    index = torch.arange(half, dtype=like.dtype, device=like.device)
    wavelength = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / half)

    def axis(length: int) -> Tensor:
        steps = torch.arange(1, length + 1, dtype=like.dtype, device=like.device)
        phase = (steps / (length + 1e-6) * 2 * math.pi)[:, None] / wavelength  # (length, half)
        return torch.stack([phase[:, 0::2].sin(), phase[:, 1::2].cos()], -1).flatten(1)

    y = axis(height).t()[:, :, None].expand(half, height, width)
    x = axis(width).t()[:, None, :].expand(half, height, width)
    return torch.cat([y, x])
