"""Several proposals for one object: the best one stays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def drop_duplicates(scores: NDArray[np.float32], overlap: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """Zeroes the score of each proposal whose mask overlaps a better one's.

    Args:
        scores: (N,) in [0, 1].
        overlap: (N, N) IoU of their masks, as :func:`overlaps` gives it.
        threshold: least IoU of two proposals for one object.

    Returns:
        (N,) scores
    """
    result, same = scores.copy(), overlap >= threshold
    for row in np.argsort(-result, kind="stable"):
        if result[row] > 0:
            worse = same[row].copy()
            worse[row] = False
            result[worse] = 0
    return result


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """IoU of all pairs of (M, h, w) and (N, h, w) bool masks -> (M, N); 0 for two empty ones."""
    a, b = first.flatten(1).float(), second.flatten(1).float()
    common = a @ b.t()
    union = a.sum(1)[:, None] + b.sum(1)[None] - common
    return common / union.clamp(min=1)
