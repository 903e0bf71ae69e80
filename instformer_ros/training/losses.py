"""Losses of both stages: masks and objectness (Mask2Former), L_SC (paper Eq. 2) and L_TC (paper Eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from instformer_ros.model.mask_decoder import DecoderOutput
from instformer_ros.training.matching import Match, Targets, sample

NO_OBJECT_WEIGHT = 0.1
_OVERSAMPLE, _IMPORTANT = 3, 0.75  # PointRend (Kirillov et al. 2020): most points where the mask is unsure


def objectness_loss(output: DecoderOutput, match: Match, objects: float) -> Tensor:
    """Cross-entropy of "object" (matched) against "no object" (the rest, weight 0.1).

    A head of many classes, as imported, says "object" with all of them together.

    Args:
        objects: matched queries to divide by, see :class:`instformer_ros.training.loop.Stage`.
    """
    logits = output.class_logits.float()
    logits = torch.stack([logits[..., :-1].logsumexp(-1), logits[..., -1]], -1)
    target = torch.ones(logits.shape[:2], dtype=torch.int64, device=logits.device)
    target[match.image, match.query] = 0
    weight = torch.tensor([1.0, NO_OBJECT_WEIGHT], device=logits.device)
    total = F.cross_entropy(logits.flatten(0, 1), target.flatten(), weight, reduction="sum")
    return total / (objects + NO_OBJECT_WEIGHT * (target.numel() - objects))


def mask_losses(
    output: DecoderOutput, targets: Targets, match: Match, points: int, objects: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and dice of the matched masks at sampled points, each summed and divided by ``objects``."""
    predicted = output.mask_logits[match.image, match.query][:, None].float()  # (M, 1, h, w)
    wanted = targets.masks[match.image, match.target][:, None]
    with torch.no_grad():
        where = _unsure_points(predicted, points)
        labels = sample(wanted, where)[:, 0]
    logits = sample(predicted, where)[:, 0]  # (M, P)
    entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1).sum() / objects
    probability = logits.sigmoid()
    dice = 1 - (2 * (probability * labels).sum(1) + 1) / (probability.sum(1) + labels.sum(1) + 1)
    return entropy, dice.sum() / objects


def _unsure_points(logits: Tensor, points: int) -> Tensor:
    """(M, P, 2): three quarters of them where |logit| is smallest among thrice as many, the rest anywhere.

    All masks choose among the same candidates, so that nothing depends on which others share the batch.
    """
    important = int(_IMPORTANT * points)
    candidates = torch.rand(_OVERSAMPLE * points, 2, device=logits.device).expand(len(logits), -1, -1)
    certainty = sample(logits, candidates)[:, 0].abs()
    chosen = certainty.topk(important, dim=1, largest=False).indices
    unsure = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    anywhere = torch.rand(points - important, 2, device=logits.device).expand(len(logits), -1, -1)
    return torch.cat([unsure, anywhere], 1)


def instance_margin_loss(queries: Tensor, margin: float, mean: bool = True) -> Tensor:
    """L_SC, the contrastive instance margin (paper Eq. 2): queries of one frame should not be alike.

    Args:
        queries: (B, N, C) the last layer's normalised queries.
        margin: alpha; pairs with a cosine up to it are left alone.
        mean: average over the N(N - 1) pairs and the batch; else the paper's raw sum, averaged over the batch.
    """
    queries = F.normalize(queries.float(), dim=-1)
    excess = (queries @ queries.mT - margin).clamp(min=0)
    count = excess.shape[-1]
    off_diagonal = ~torch.eye(count, dtype=torch.bool, device=excess.device)
    total = (excess * off_diagonal).sum((-2, -1)).mean()  # the diagonal is a constant with no gradient
    return total / (count * (count - 1)) if mean else total


def temporal_contrastive_loss(
    predicted: Tensor, tokens: Tensor, target: Tensor, same: Tensor | None = None, temperature: float = 0.07
) -> Tensor:
    """L_TC (paper Eq. 6, as the text has it): the rollout token of an object should meet its token of this frame.

    Args:
        predicted: (..., K, W) rollout tokens T^A of K tracked objects.
        tokens: (..., N, W) tracking tokens of all queries of this frame; all but the target are negatives.
        target: (..., K) int64, the query matched to each object; -1 where the object is absent (no loss).
        same: (..., K, N) bool, queries that show the object as well: no negatives of it. None = there are none.

    Returns:
        the sum over all objects that are not absent.
    """
    logits = F.normalize(predicted, dim=-1) @ F.normalize(tokens, dim=-1).mT / temperature
    if same is not None:
        wanted = F.one_hot(target.clamp(min=0), logits.shape[-1]).bool()
        logits = logits.masked_fill(same & ~wanted, float("-inf"))
    return F.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=-1, reduction="sum")
