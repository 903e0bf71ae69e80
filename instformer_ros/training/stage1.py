"""Stage 1: the proposal network and InstCLIP's adapters, on labelled frames (paper Sec. 5.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.mask_decoder import DecoderOutput
from instformer_ros.model.proposals import ProposalNetwork
from instformer_ros.training.frames import FrameBatch
from instformer_ros.training.loop import Losses, Stage
from instformer_ros.training.losses import instance_margin_loss, mask_losses, objectness_loss
from instformer_ros.training.matching import Match, match
from instformer_ros.training.runtime import autocast

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0


@dataclass(frozen=True)
class ProposalOptions:
    """Choices of the paper and of our reading; each is an ablation."""

    points: int = 12544  # sampled points a mask
    margin: float = 0.8  # alpha of L_SC
    margin_weight: float = 2.0  # 0 = without L_SC
    margin_mean: bool = True  # False: the paper's raw sum over pairs
    reduced: bool = False  # the network in bf16 where it pays; losses stay in full precision
    frozen_norm: bool = False  # batch statistics stay as they are, as for an imported backbone


class FrameStage(Stage):
    """A stage on labelled frames. Frozen parts of the model are used, but neither trained nor saved with it."""

    def __init__(self, queries: int) -> None:
        super().__init__()
        self._queries = queries

    def objects(self, batch: FrameBatch) -> int:
        """Objects that a query can be matched to."""
        return batch.targets.matched(self._queries)


class ProposalStage(FrameStage):
    """Trains the proposal network: mask losses and L_SC, under deep supervision."""

    def __init__(self, proposals: ProposalNetwork, options: ProposalOptions) -> None:
        super().__init__(proposals.config.queries)
        self.proposals, self.options = proposals, options
        self.proposals.requires_grad_(True)

    def train(self, mode: bool = True) -> ProposalStage:
        """As ever, but for batch statistics that are to stay."""
        super().train(mode)
        if self.options.frozen_norm:
            for module in self.proposals.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, batch: FrameBatch, step: int, objects: float) -> Losses:
        """Key "loss" is the weighted sum of all layers, the others are the last layer's."""
        return self.decoded(batch.to(self.proposals.pixel_mean.device), objects)[0]

    def decoded(self, batch: FrameBatch, objects: float) -> tuple[Losses, DecoderOutput, Match]:
        """The losses, with the last layer's heads and their match."""
        options, targets = self.options, batch.targets
        with autocast(batch.images.device, options.reduced):
            outputs = self.proposals.decode(batch.images, deep=True)
        total = torch.zeros((), device=batch.images.device)
        for output in outputs:
            pairs = match(output, targets, options.points)
            entropy, dice = mask_losses(output, targets, pairs, options.points, objects)
            objectness = objectness_loss(output, pairs, objects)
            total = total + CLASS_WEIGHT * objectness + MASK_WEIGHT * entropy + DICE_WEIGHT * dice
        margin = instance_margin_loss(outputs[-1].queries, options.margin, options.margin_mean)
        if options.margin_weight:
            total = total + options.margin_weight * margin
        losses = {"loss": total, "objectness": objectness, "mask": entropy, "dice": dice, "margin": margin}
        return losses, outputs[-1], pairs


@dataclass
class MatchedBatch:
    """Frames with the proposals that answer for their objects: what the adapters learn from."""

    images: Tensor  # (B, 3, H, W) float32 RGB, 0-255
    masks: Tensor  # (B, L, H/4, W/4) mask logits, L = most pairs of a frame; rows without a pair repeat some proposal
    queries: Tensor  # (B, L) int64, which I_0 each starts from
    image: Tensor  # (M,) int64: image, row and label of every pair of object and proposal
    row: Tensor
    label: Tensor  # index into the training vocabulary

    def __len__(self) -> int:
        return len(self.label)


def gather_pairs(batch: FrameBatch, output: DecoderOutput, pairs: Match) -> MatchedBatch:
    """The proposals of ``output`` that ``pairs`` names."""
    images, device = len(batch.images), batch.images.device
    found = torch.bincount(pairs.image, minlength=images).tolist()  # pairs come image by image
    row = torch.cat([torch.arange(n, device=device) for n in found])
    queries = torch.zeros(images, max(found), dtype=torch.int64, device=device)
    queries[pairs.image, row] = pairs.query
    masks = output.mask_logits.gather(1, queries[..., None, None].expand(-1, -1, *output.mask_logits.shape[-2:]))
    label = batch.targets.labels[pairs.image, pairs.target]
    return MatchedBatch(batch.images, masks.detach().float(), queries, pairs.image, row, label)


@torch.no_grad()
def match_frames(proposals: ProposalNetwork, batch: FrameBatch, points: int) -> MatchedBatch:
    """What the frozen ``proposals`` see in ``batch``; masks are compared at ``points`` sampled points."""
    output = proposals.eval().decode(batch.images)[-1]
    return gather_pairs(batch, output, match(output, batch.targets, points))


class AdapterStage(FrameStage):
    """Trains LoRA, I_0 and R_0: cross-entropy of the matched queries against the training vocabulary.

    The guidance is detached and no weight is shared, so InstCLIP learns nothing from training beside the proposal
    network that it does not learn from training after it, on better masks.

    Args:
        texts: (K, E) text embeddings of the training vocabulary.
        points: sampled points an image, to match with.
        reduced: bf16 where it pays.
    """

    texts: Tensor

    def __init__(self, model: InstFormer, texts: Tensor, points: int, reduced: bool = True) -> None:
        super().__init__(model.config.proposals.queries)
        self.instclip = model.instclip
        self.instclip.requires_grad_(True)
        self.instclip.clip.requires_grad_(False)
        self._frozen = [model.proposals]  # in a list: no part of the module
        self._points, self._reduced = points, reduced
        self.register_buffer("texts", texts, persistent=False)

    def objects(self, batch: FrameBatch | MatchedBatch) -> int:
        """Objects that a query can be matched to."""
        return super().objects(batch) if isinstance(batch, FrameBatch) else len(batch)

    def forward(self, batch: FrameBatch | MatchedBatch, step: int, objects: float) -> Losses:
        """Loss and accuracy; a batch may have been matched before."""
        if isinstance(batch, FrameBatch):
            batch = match_frames(self._frozen[0], batch.to(self.texts.device), self._points)
        with autocast(batch.images.device, self._reduced):
            tokens = self.instclip.encode(batch.images, batch.masks, batch.queries).instances
        tokens = F.normalize(tokens.float(), dim=-1)[batch.image, batch.row]
        logits = self.instclip.clip.logit_scale.exp() * tokens @ self.texts.t()
        right = (logits.argmax(1) == batch.label).sum()
        return {"loss": F.cross_entropy(logits, batch.label, reduction="sum") / objects, "accuracy": right / objects}


class InstanceStage(FrameStage):
    """Both in one pass, as the paper trains them: the adapters learn on the masks of the moment."""

    def __init__(self, model: InstFormer, texts: Tensor, options: ProposalOptions) -> None:
        super().__init__(model.config.proposals.queries)
        self.masks = ProposalStage(model.proposals, options)
        self.names = AdapterStage(model, texts, options.points, options.reduced)

    def forward(self, batch: FrameBatch, step: int, objects: float) -> Losses:
        """The sum of both losses, and the parts of it."""
        batch = batch.to(self.names.texts.device)
        losses, output, pairs = self.masks.decoded(batch, objects)
        named = self.names(gather_pairs(batch, output, pairs), step, objects)
        total = losses.pop("loss") + named["loss"]
        return {"loss": total, **losses, "class": named["loss"], "accuracy": named["accuracy"]}
