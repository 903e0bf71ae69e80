"""Bipartite matching of predictions with ground truth (Carion et al. 2020; Mask2Former's costs on sampled points)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from instformer_ros.model.mask_decoder import DecoderOutput

CLASS_COST, MASK_COST, DICE_COST = 2.0, 5.0, 5.0


@dataclass
class Targets:
    """Ground truth of B images, padded to the same K."""

    masks: Tensor  # (B, K, H, W) float 0/1
    counts: Sequence[int]  # objects of each image, <= K
    labels: Tensor  # (B, K) int64, index into the training vocabulary; -1 in the padding

    def matched(self, queries: int) -> int:
        """Pairs that :func:`match` will find among so many queries an image."""
        return sum(min(count, queries) for count in self.counts)


@dataclass
class Match:
    """Which query answers for which object, flat over the batch and image by image: M pairs.

    Of an image with more objects than queries some objects have none.
    """

    image: Tensor  # (M,) int64
    query: Tensor  # (M,) int64
    target: Tensor  # (M,) int64


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of (A, C, H, W) at (A, P, 2) points, x then y in [0, 1] -> (A, C, P)."""
    return F.grid_sample(maps, points[:, None] * 2 - 1, align_corners=False)[:, :, 0]


@torch.no_grad()
def match(output: DecoderOutput, targets: Targets, points: int) -> Match:
    """The assignment of least cost: 2 x class + 5 x cross-entropy + 5 x dice, masks compared at random points.

    Args:
        output: heads of one decoder layer.
        targets: ground truth of the same images.
        points: sampled points an image.
    """
    logits = output.mask_logits.float()
    where = torch.rand(points, 2, device=logits.device).expand(len(logits), -1, -1)  # the same for all images
    predicted = sample(logits, where)  # (B, N, P)
    wanted = sample(targets.masks, where).round()  # (B, K, P)
    probability = predicted.sigmoid()
    positive, negative = F.softplus(-predicted), F.softplus(predicted)
    entropy = (positive @ wanted.mT + negative @ (1 - wanted).mT) / points
    overlap = 2 * probability @ wanted.mT + 1
    dice = 1 - overlap / (probability.sum(-1)[..., None] + wanted.sum(-1)[:, None] + 1)
    objectness = 1 - output.class_logits.float().softmax(-1)[..., -1]
    cost = (MASK_COST * entropy + DICE_COST * dice - CLASS_COST * objectness[..., None]).cpu().numpy()
    image, query, target = [], [], []
    for index, count in enumerate(targets.counts):
        queries, objects = linear_sum_assignment(cost[index, :, :count])
        image += [index] * len(queries)
        query += queries.tolist()
        target += objects.tolist()
    device = logits.device
    return Match(*(torch.tensor(x, dtype=torch.int64, device=device) for x in (image, query, target)))
