"""The paper's baselines for naming: N pictures, one an instance, through frozen CLIP (Tab. 4 and 5, line 1).

What InstCLIP says in one pass costs N passes here, and CLIP sees the instance without its surroundings.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from instformer_ros.model.config import Classifier, ClipConfig, InstClipConfig
from instformer_ros.model.guidance import MASK_STRIDE
from instformer_ros.model.instclip import InstClip
from instformer_ros.model.normalise import normalise

_CHUNK = 16  # pictures a pass of CLIP


class CropClip(InstClip):
    """Stands in InstCLIP's place, with the same calls and the same weights, of which it uses CLIP's own alone.

    *masked-images*: the whole frame, black out (CLIP's mean colour) but for the instance; *masked-crops*: the part of
    that around the instance; *crops*: the part of the frame around it as it is. The part is the mask's box, widened to
    the aspect of CLIP's native picture, so that nothing is distorted, and resized to it; beyond the frame lies the mean
    colour. An empty mask takes the whole frame for its box.
    """

    def __init__(self, clip_config: ClipConfig, config: InstClipConfig, instances: int, kind: Classifier) -> None:
        super().__init__(clip_config, config, instances)
        self.kind = kind

    @torch.no_grad()
    def merge_lora(self) -> None:
        """Drops the adapters: the baseline is CLIP as it was."""
        self.lora = torch.nn.ModuleList()

    def pack(self) -> None:
        """Nothing: pictures go through CLIP's own forward pass, which wants its weights as they are."""

    def forward(self, images: Tensor, mask_logits: Tensor, queries: Tensor | None = None) -> Tensor:
        """As :meth:`InstClip.forward`; ``queries`` makes no difference.

        Returns:
            (B, N, E), L2-normalised.
        """
        batch, instances = mask_logits.shape[:2]
        height, width = images.shape[-2:]
        if not instances:
            return images.new_zeros(batch, 0, self.embed_dim)
        masks = F.interpolate(mask_logits, scale_factor=MASK_STRIDE, mode="bilinear", align_corners=False)
        masks = (masks[..., :height, :width] > 0).flatten(0, 1)
        frames = normalise(images, self.pixel_mean, self.pixel_std)
        owner = torch.arange(batch, device=images.device).repeat_interleave(instances)
        tokens = [
            self.clip.encode_image(self._pictures(frames[owner[rows]], masks[rows]), normalize=True)
            for rows in torch.arange(batch * instances, device=images.device).split(_CHUNK)
        ]
        return torch.cat(tokens).unflatten(0, (batch, instances))

    def _pictures(self, frames: Tensor, masks: Tensor) -> Tensor:
        """(M, 3, H, W) normalised frames and (M, H, W) bool masks -> (M, 3, h, w) at CLIP's native size."""
        size = (self.visual.image_size[0], self.visual.image_size[1])
        boxes = frame_boxes(masks) if self.kind == "masked-images" else mask_boxes(masks)
        if self.kind != "crops":
            frames = frames * masks[:, None]  # 0 is the mean colour
        boxes = widen(boxes, size[1] / size[0]).to(frames) + 1
        rois = torch.cat([torch.arange(len(boxes), device=boxes.device)[:, None].to(boxes), boxes], 1)
        # Adaptive sampling averages over what falls into a pixel. It reads 0 beyond the frame, but repeats the border
        # for one pixel: hence a border of 0.
        return roi_align(F.pad(frames, (1, 1, 1, 1)), rois, size, sampling_ratio=-1, aligned=True)


def frame_boxes(masks: Tensor) -> Tensor:
    """The whole frame for each of (M, H, W) masks: (M, 4) float x0, y0, x1, y1 in pixels."""
    height, width = masks.shape[-2:]
    return torch.tensor([0, 0, width, height], dtype=torch.float32, device=masks.device).repeat(len(masks), 1)


def mask_boxes(masks: Tensor) -> Tensor:
    """Tight boxes of (M, H, W) bool masks: (M, 4) float x0, y0, x1, y1 in pixels; the whole frame for an empty one."""
    sides = []
    for axis in (1, 2):  # pixels along x, then along y
        used = masks.any(axis)
        first = used.float().argmax(1)
        last = used.shape[1] - used.flip(1).float().argmax(1)
        sides.append((first, last))
    (x0, x1), (y0, y1) = sides
    boxes = torch.stack([x0, y0, x1, y1], 1).float()
    return torch.where(masks.flatten(1).any(1)[:, None], boxes, frame_boxes(masks))


def widen(boxes: Tensor, aspect: float) -> Tensor:
    """Boxes (M, 4) grown about their centres to ``aspect`` = width / height."""
    low, high = boxes[:, :2], boxes[:, 2:]
    centre, side = (low + high) / 2, high - low
    width = torch.maximum(side[:, 0], side[:, 1] * aspect)
    half = torch.stack([width, width / aspect], 1) / 2
    return torch.cat([centre - half, centre + half], 1)
