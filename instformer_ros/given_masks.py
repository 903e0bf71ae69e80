"""Masks that the caller has (ground truth, say) in place of the proposed ones."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from instformer_ros.structures import Proposals
from instformer_ros.tracking.association import assign
from instformer_ros.tracking.duplicates import overlaps

_CERTAIN = 20.0  # logit of a given mask


def replace_masks(proposals: Proposals, index: int, given: NDArray[np.bool_]) -> tuple[Proposals, Tensor]:
    """The proposals of one image of a batch with their masks replaced.

    Args:
        proposals: of a batch of B images, N queries each.
        index: which image.
        given: (M, H, W) bool, M <= N.

    Returns:
        M proposals (a batch of one) of objectness 1, and the rows (1, M) int64 of the queries that they took: those
        whose own masks overlap them best, one each.
    """
    logits = proposals.mask_logits[index]
    device = logits.device
    wanted = torch.from_numpy(np.asarray(given, np.float32)).to(device)[None]
    cover = F.interpolate(wanted, logits.shape[-2:], mode="area")[0] if len(given) else logits[:0]
    # More than half of a cell, or, of a thin mask that never covers so much, the cells that it covers most.
    wanted = cover > (0.99 * cover.flatten(1).amax(1)).clamp(max=0.5)[:, None, None] if len(given) else cover > 0
    pairs = assign(overlaps(wanted, logits > 0).double().cpu().numpy())
    rows = torch.tensor([row for _, row in pairs], dtype=torch.int64, device=device)
    sharp = torch.where(wanted, _CERTAIN, -_CERTAIN)[None]
    replaced = Proposals(proposals.queries[index, rows][None], torch.ones(1, len(rows), device=device), sharp)
    return replaced, rows[None]
