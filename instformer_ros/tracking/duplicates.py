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

    Returns:
        (N,) scores, on the CPU: they come over together with the overlaps, in one copy.
    """
    table = torch.cat([scores[:, None], overlaps(masks, masks)], 1).cpu().numpy()
    result, overlap = table[:, 0].copy(), table[:, 1:] >= threshold
    for row in np.argsort(-result, kind="stable"):
        if result[row] > 0:
            worse = overlap[row].copy()
            worse[row] = False
            result[worse] = 0
    return torch.from_numpy(result)


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """IoU of all pairs of (M, h, w) and (N, h, w) bool masks -> (M, N); 0 for two empty ones."""
    a, b = first.flatten(1).float(), second.flatten(1).float()
    common = a @ b.t()
    union = a.sum(1)[:, None] + b.sum(1)[None] - common
    return common / union.clamp(min=1)
