"""Open-world mask proposals (paper Sec. 4.1, Eq. 1): image in, class-agnostic masks and queries out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instformer_ros.model.backbone import build_backbone
from instformer_ros.model.config import ProposalConfig
from instformer_ros.model.guidance import MASK_STRIDE
from instformer_ros.model.mask_decoder import DecoderOutput, MaskDecoder
from instformer_ros.model.normalise import normalise
from instformer_ros.model.pixel_decoder import PixelDecoder
from instformer_ros.structures import Proposals

MULTIPLE = 32  # the coarsest stride: images are padded to a multiple of it, at the right and at the bottom


class ProposalNetwork(nn.Module):
    """Mask2Former: backbone, pixel decoder, mask decoder."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: ProposalConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        self.pixel_decoder = PixelDecoder(config, self.backbone.channels)
        self.mask_decoder = MaskDecoder(config)
        self.register_buffer("pixel_mean", torch.tensor(config.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.pixel_std).view(3, 1, 1), persistent=False)

    def decode(self, images: Tensor, deep: bool = False) -> list[DecoderOutput]:
        """All heads; see :meth:`MaskDecoder.forward`. ``images`` as in :meth:`forward`."""
        height, width = images.shape[-2:]
        x = normalise(images, self.pixel_mean, self.pixel_std)
        x = F.pad(x, (0, -width % MULTIPLE, 0, -height % MULTIPLE))  # with the mean colour
        outputs = self.mask_decoder(*self.pixel_decoder(self.backbone(x)), deep=deep)
        for output in outputs:
            output.mask_logits = output.mask_logits[..., : -(-height // MASK_STRIDE), : -(-width // MASK_STRIDE)]
        return outputs

    def forward(self, images: Tensor) -> Proposals:
        """Proposes N masks an image.

        Args:
            images: (B, 3, H, W) float, RGB, 0-255, any size.

        Returns:
            Proposals with objectness = 1 - p(no object), which holds for a 2-way head and an imported many-way one.
        """
        return as_proposals(self.decode(images)[-1])


def as_proposals(output: DecoderOutput) -> Proposals:
    """The last layer's heads in the house's own noun."""
    objectness = 1 - output.class_logits.softmax(-1)[..., -1]
    return Proposals(output.queries, objectness, output.mask_logits)


def rank_score(proposals: Proposals) -> Tensor:
    """Objectness x mean foreground probability inside the mask, (B, N) in [0, 1]; 0 for an empty mask."""
    probability = proposals.mask_logits.sigmoid()
    inside = (proposals.mask_logits > 0).to(probability.dtype)
    area = inside.sum((-2, -1))
    return proposals.objectness * (probability * inside).sum((-2, -1)) / area.clamp(min=1)
