"""Several proposals for one object: the best one stays."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def drop_duplicates(scores: Tensor, masks: Tensor, threshold: float) -> Tensor:
    """Zeroes the score of each proposal whose mask overlaps a better one's.

    Args:
        scores: (N,) in [0, 1].
        masks: (N, h, w) bool.
        threshold: least IoU of two proposals for one object.
    """
    order = scores.argsort(descending=True)
    overlap = (overlaps(masks, masks) >= threshold)[order][:, order].cpu().numpy()
    kept = np.ones(len(overlap), bool)
    for row in range(len(overlap)):
        if kept[row]:
            kept[row + 1 :] &= ~overlap[row, row + 1 :]
    result = scores.clone()
    result[order[torch.from_numpy(~kept).to(order.device)]] = 0
    return result


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """IoU of all pairs of (M, h, w) and (N, h, w) bool masks -> (M, N); 0 for two empty ones."""
    a, b = first.flatten(1).float(), second.flatten(1).float()
    common = a @ b.t()
    union = a.sum(1)[:, None] + b.sum(1)[None] - common
    return common / union.clamp(min=1)
