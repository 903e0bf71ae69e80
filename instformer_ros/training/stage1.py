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
from instformer_ros.training.loop import Losses
from instformer_ros.training.losses import instance_margin_loss, mask_losses, objectness_loss
from instformer_ros.training.matching import Match, Targets, match
from instformer_ros.training.runtime import autocast

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0


@dataclass(frozen=True)
class Stage1Options:
    """Choices of the paper and of our reading; each is an ablation."""

    points: int = 12544  # sampled points a mask
    margin: float = 0.8  # alpha of L_SC
    margin_weight: float = 2.0  # 0 = without L_SC
    margin_mean: bool = True  # False: the paper's raw sum over pairs
    instclip_images: int = 0  # how many images of a batch InstCLIP trains on; 0 = all
    instclip_from: int = 0  # the first step it trains at: before, there are no masks worth guiding by


@dataclass
class FrameBatch:
    """One step's data."""

    images: Tensor  # (B, 3, H, W) float32 RGB, 0-255
    targets: Targets


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


class Stage1(nn.Module):
    """What stage 1 trains, and its losses."""

    texts: Tensor

    def __init__(self, model: InstFormer, texts: Tensor, options: Stage1Options) -> None:
        super().__init__()
        self.model, self.options = model, options
        self.register_buffer("texts", texts, persistent=False)  # (K, E) of the training vocabulary

    def forward(self, batch: FrameBatch, step: int) -> Losses:
        """All losses of one step; "loss" is their weighted sum."""
        device = batch.images.device
        options, targets = self.options, batch.targets
        outputs = self.model.proposals.decode(batch.images, deep=True)
        losses: Losses = {}
        total = torch.zeros((), device=device)
        for layer, output in enumerate(outputs):
            pairs = match(output, targets, options.points)
            entropy, dice = mask_losses(output, targets, pairs, options.points)
            objectness = objectness_loss(output, pairs)
            total = total + CLASS_WEIGHT * objectness + MASK_WEIGHT * entropy + DICE_WEIGHT * dice
            if layer == len(outputs) - 1:
                losses |= {"objectness": objectness, "mask": entropy, "dice": dice}
        losses["margin"] = instance_margin_loss(outputs[-1].queries, options.margin, options.margin_mean)
        if options.margin_weight:
            total = total + options.margin_weight * losses["margin"]
        if step >= options.instclip_from:
            images = options.instclip_images or len(batch.images)
            classes, accuracy = self._classify(batch, outputs[-1].mask_logits.detach().float(), pairs, images)
            total = total + classes
            losses |= {"classes": classes, "accuracy": accuracy}
        return {"loss": total, **losses}

    def _classify(self, batch: FrameBatch, mask_logits: Tensor, pairs: Match, images: int) -> tuple[Tensor, Tensor]:
        """Cross-entropy and accuracy of the matched queries against the training vocabulary, on the first images."""
        kept = pairs.image < images
        image, query, target = pairs.image[kept], pairs.query[kept], pairs.target[kept]
        slot = torch.cat(
            [torch.arange(n, device=image.device) for n in batch.targets.counts[:images]]
        )  # pairs by image
        queries = torch.zeros(images, max(batch.targets.counts[:images]), dtype=torch.int64, device=image.device)
        queries[image, slot] = query
        masks = mask_logits[:images].gather(1, queries[..., None, None].expand(-1, -1, *mask_logits.shape[-2:]))
        with autocast(batch.images.device):
            tokens = self.model.instclip.encode(batch.images[:images], masks, queries).instances
        tokens = F.normalize(tokens.float(), dim=-1)[image, slot]
        logits = self.model.instclip.clip.logit_scale.exp() * tokens @ self.texts.t()
        labels = batch.targets.labels[image, target]
        return F.cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean()
