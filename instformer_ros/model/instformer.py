"""The whole network: proposals, InstCLIP and the rollout tracker under one roof (paper Fig. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from instformer_ros.model.config import ModelConfig
from instformer_ros.model.crops import CropClip
from instformer_ros.model.fold import fold_batch_norms, fold_quick_gelu
from instformer_ros.model.instclip import InstClip
from instformer_ros.model.proposals import ProposalNetwork
from instformer_ros.model.rollout import RolloutTracker, tracking_width
from instformer_ros.structures import InstanceTokens


class InstFormer(nn.Module):
    """Everything that a checkpoint holds. Knows nothing of files, clocks or tracks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.proposals = ProposalNetwork(config.proposals)
        if config.classifier == "instclip":
            self.instclip = InstClip(config.clip, config.instclip, config.proposals.queries)
        else:
            self.instclip = CropClip(config.clip, config.instclip, config.proposals.queries, config.classifier)
        width = tracking_width(config.rollout, config.proposals.width, self.instclip.embed_dim)
        self.rollout = RolloutTracker(config.rollout, width)

    def forward(self, images: Tensor) -> InstanceTokens:
        """One frame for each of B cameras.

        Args:
            images: (B, 3, H, W) float, RGB, 0-255; H and W multiples of 4.
        """
        proposals = self.proposals(images)
        return InstanceTokens(proposals, self.instclip(images, proposals.mask_logits))

    def prepare(self) -> InstFormer:
        """Makes the network ready for inference, in place; no checkpoint of it can be written after that.

        Adapters and the factor of QuickGELU go into CLIP's weights, batch normalisations into convolutions. Maps lie
        channels-last: one is then a list of tokens without being copied.
        """
        self.eval().requires_grad_(False)
        self.instclip.merge_lora()
        fold_batch_norms(self.proposals)
        fold_quick_gelu(self.instclip.blocks)
        return self.to(memory_format=torch.channels_last)
