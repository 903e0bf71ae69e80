"""Association of predicted tokens with those of a frame (paper Sec. 4.3): cosine similarity and Hungarian matching."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F


def cosine_similarity(predicted: Tensor, tokens: Tensor) -> Tensor:
    """Cosine of every pair: (K, W) and (N, W) -> (K, N) in [-1, 1], where they are."""
    return F.normalize(predicted, dim=-1) @ F.normalize(tokens, dim=-1).t()


def assign(similarity: NDArray[np.floating[Any]], least: float = -np.inf) -> list[tuple[int, int]]:
    """The one-to-one assignment of greatest total similarity among the pairs that reach ``least``.

    Args:
        similarity: (K, N), finite.
        least: match gate; pairs below it are never made.

    Returns:
        (row, column) pairs by ascending row, at most min(K, N) of them
    """
    # Pairs below the gate all count the same, or one of them could take an object from a pair above it.
    rows, columns = linear_sum_assignment(np.maximum(similarity, least), maximize=True)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if similarity[r, c] >= least]
