"""Stage 1: the proposal network and InstCLIP's adapters, on labelled frames (paper Sec. 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instformer_ros.data import toyvis
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.proposals import ProposalNetwork
from instformer_ros.training.loop import Losses
from instformer_ros.training.losses import instance_margin_loss, mask_losses, objectness_loss
from instformer_ros.training.matching import Targets, match
from instformer_ros.training.runtime import autocast

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0


@dataclass(frozen=True)
class ProposalOptions:
    """Choices of the paper and of our reading; each is an ablation."""

    points: int = 12544  # sampled points a mask
    margin: float = 0.8  # alpha of L_SC
    margin_weight: float = 2.0  # 0 = without L_SC
    margin_mean: bool = True  # False: the paper's raw sum over pairs


@dataclass
class FrameBatch:
    """One step's data."""

    images: Tensor  # (B, 3, H, W) float32 RGB, 0-255
    targets: Targets

    def to(self, device: torch.device) -> FrameBatch:
        """A copy there; itself if it is there."""
        targets = self.targets
        there = Targets(targets.masks.to(device), targets.counts, targets.labels.to(device))
        return FrameBatch(self.images.to(device), there)


class FrameBatches:
    """Batches of ToyVIS's labelled frames by step number. Frames without a visible object are drawn again."""

    def __init__(self, batch: int, seed: int, vocabulary: Sequence[str], unlabelled: Sequence[str] = ()) -> None:
        self._batch, self._seed, self._unlabelled = batch, seed, unlabelled
        self._vocabulary = list(vocabulary)

    def __call__(self, step: int) -> FrameBatch:
        rng = np.random.default_rng([self._seed, 2, step])
        images: list[toyvis.Image] = []
        masks: list[toyvis.Masks] = []
        names: list[tuple[str, ...]] = []
        while len(images) < self._batch:
            image, seen, called = toyvis.labelled_frame(rng, self._vocabulary, self._unlabelled)
            if len(called):
                images.append(image)
                masks.append(seen)
                names.append(called)
        most = max(len(called) for called in names)
        padded = np.zeros((self._batch, most, *images[0].shape[:2]), np.float32)
        labels = np.full((self._batch, most), -1)
        for row, (seen, called) in enumerate(zip(masks, names, strict=True)):
            padded[row, : len(called)] = seen
            labels[row, : len(called)] = [self._vocabulary.index(name) for name in called]
        targets = Targets(torch.from_numpy(padded), [len(called) for called in names], torch.from_numpy(labels))
        return FrameBatch(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float(), targets)


class ProposalStage(nn.Module):
    """Trains the proposal network: mask losses and L_SC, under deep supervision."""

    def __init__(self, proposals: ProposalNetwork, options: ProposalOptions) -> None:
        super().__init__()
        self.proposals, self.options = proposals, options

    def forward(self, batch: FrameBatch, step: int) -> Losses:
        """All losses of one step; "loss" is their weighted sum, the others are the last layer's."""
        batch = batch.to(self.proposals.pixel_mean.device)
        options, targets = self.options, batch.targets
        outputs = self.proposals.decode(batch.images, deep=True)
        losses: Losses = {}
        total = torch.zeros((), device=batch.images.device)
        for output in outputs:
            pairs = match(output, targets, options.points)
            entropy, dice = mask_losses(output, targets, pairs, options.points)
            objectness = objectness_loss(output, pairs)
            total = total + CLASS_WEIGHT * objectness + MASK_WEIGHT * entropy + DICE_WEIGHT * dice
            losses = {"objectness": objectness, "mask": entropy, "dice": dice}
        losses["margin"] = instance_margin_loss(outputs[-1].queries, options.margin, options.margin_mean)
        if options.margin_weight:
            total = total + options.margin_weight * losses["margin"]
        return {"loss": total, **losses}


@dataclass
class MatchedBatch:
    """Frames with the proposals that answer for their objects: what adapters learn from. L = most objects a frame."""

    images: Tensor  # (B, 3, H, W) float32 RGB, 0-255
    masks: Tensor  # (B, L, H/4, W/4) mask logits; rows without an object repeat some proposal
    queries: Tensor  # (B, L) int64, which I_0 each starts from
    image: Tensor  # (M,) int64, image, row and label of every pair of object and proposal
    row: Tensor
    label: Tensor  # index into the training vocabulary


@torch.no_grad()
def match_frames(proposals: ProposalNetwork, batch: FrameBatch, points: int) -> MatchedBatch:
    """What the frozen ``proposals`` see in ``batch``; masks are compared at ``points`` sampled points."""
    output = proposals.eval().decode(batch.images)[-1]
    pairs = match(output, batch.targets, points)
    counts, device = batch.targets.counts, batch.images.device
    row = torch.cat([torch.arange(n, device=device) for n in counts])  # pairs come image by image
    queries = torch.zeros(len(counts), max(counts), dtype=torch.int64, device=device)
    queries[pairs.image, row] = pairs.query
    masks = output.mask_logits.gather(1, queries[..., None, None].expand(-1, -1, *output.mask_logits.shape[-2:]))
    return MatchedBatch(batch.images, masks, queries, pairs.image, row, batch.targets.labels[pairs.image, pairs.target])


class AdapterStage(nn.Module):
    """Trains LoRA, I_0 and R_0: cross-entropy of the matched queries against the training vocabulary.

    The guidance is detached and no weight is shared, so InstCLIP learns nothing from training beside the proposal
    network that it does not learn from training after it, on better masks.
    """

    texts: Tensor

    def __init__(self, model: InstFormer, texts: Tensor, points: int) -> None:
        super().__init__()
        self.instclip = model.instclip
        self._proposals = [model.proposals]  # in a list: frozen, no part of what is trained and saved here
        self._points = points
        self.register_buffer("texts", texts, persistent=False)  # (K, E) of the training vocabulary

    def forward(self, batch: FrameBatch | MatchedBatch, step: int) -> Losses:
        """Loss and accuracy of one step; a batch may have been matched before."""
        if isinstance(batch, FrameBatch):
            batch = match_frames(self._proposals[0], batch.to(self.texts.device), self._points)
        with autocast(batch.images.device):
            tokens = self.instclip.encode(batch.images, batch.masks, batch.queries).instances
        tokens = F.normalize(tokens.float(), dim=-1)[batch.image, batch.row]
        logits = self.instclip.clip.logit_scale.exp() * tokens @ self.texts.t()
        accuracy = (logits.argmax(1) == batch.label).float().mean()
        return {"loss": F.cross_entropy(logits, batch.label), "accuracy": accuracy}
