"""Instance guidance: mask logits become an additive attention bias over CLIP's patches (paper Sec. 4.2, Fig. 4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from instformer_ros.model.config import InstClipConfig

MASK_STRIDE = 4  # of the mask logits, in pixels of the image
_CHUNK = 25  # masks at a time: they stay in the processor's cache


def guidance_bias(mask_logits: Tensor, size: tuple[int, int], patch: int, config: InstClipConfig) -> Tensor:
    """B_i of every instance. Detached: InstCLIP never trains the masks.

    A patch takes the largest logit of its pixels, for a small object would vanish under averaging.

    Args:
        mask_logits: (B, N, ceil(H/4), ceil(W/4)), > 0 is foreground.
        size: (H, W) of the image in pixels; what lies beyond it in a border patch does not count.
        patch: side of a CLIP patch in pixels.
        config: kind of guidance, ``scale``, ``clamp`` and ``shift``.

    Returns:
        (B, N, P) float, P = ceil(H/patch) * ceil(W/patch). *designed*: clamp(scale * logit, -clamp, +clamp), less its
        maximum over the patches with ``shift``; *binary*: 0 inside, -inf outside; *none*: 0.
    """
    height, width = size
    rows, columns = -(-height // patch), -(-width // patch)
    if config.guidance == "none" or not mask_logits.shape[1]:
        return mask_logits.new_zeros(*mask_logits.shape[:2], rows * columns)
    chunks = mask_logits.detach().split(_CHUNK if mask_logits.device.type == "cpu" else mask_logits.shape[1], 1)
    pooled = torch.cat([_patch_maxima(chunk, height, width, patch) for chunk in chunks], 1)
    if config.guidance == "binary":
        return torch.zeros_like(pooled).masked_fill(pooled <= 0, float("-inf"))
    bias = (config.scale * pooled).clamp(-config.clamp, config.clamp)
    return bias - bias.amax(-1, keepdim=True) if config.shift else bias


def _patch_maxima(mask_logits: Tensor, height: int, width: int, patch: int) -> Tensor:
    """The largest logit of every patch at the image's size, (B, n, P)."""
    if patch % MASK_STRIDE or height % MASK_STRIDE or width % MASK_STRIDE:
        return _patch_maxima_of_all_pixels(mask_logits, height, width, patch)
    cells = patch // MASK_STRIDE  # of the mask in a patch, along each side
    rows, columns = mask_logits.shape[-2:]
    # Repeating the border is what the resizing does, and adds no larger value to the patches that it fills up.
    x = F.pad(mask_logits, (1, 1 + -columns % cells, 1, 1 + -rows % cells), mode="replicate")
    above, middle, below = x[..., :-2, :], x[..., 1:-1, :], x[..., 2:, :]
    first, last = slice(None, None, cells), slice(cells - 1, None, cells)
    # Between two cells the logits are linear, so of the four pixel rows of a cell the inner two matter, and the outer
    # ones at the edges of a patch alone.
    inner = torch.maximum(_cell_maxima(_mix(middle, above, 1)), _cell_maxima(_mix(middle, below, 1)))
    maxima = inner.unflatten(-2, (-1, cells)).amax(-2)
    for side, edge in ((above, first), (below, last)):
        maxima = torch.maximum(maxima, _cell_maxima(_mix(middle[..., edge, :], side[..., edge, :], 3)))
    return maxima.unflatten(-1, (-1, cells)).amax(-1).flatten(2)


def _mix(cell: Tensor, neighbour: Tensor, eighths: int) -> Tensor:
    """Bilinear values so many eighths of the way from the centre of a cell to that of its neighbour."""
    return torch.lerp(cell, neighbour, eighths / 8)


def _cell_maxima(x: Tensor) -> Tensor:
    """(..., W + 2) to (..., W): the largest of the four pixels that a cell becomes along its row."""
    middle = x[..., 1:-1]
    rise = torch.maximum(x[..., :-2], x[..., 2:]).sub_(middle)  # to the larger neighbour, of which pixels are 1/8, 3/8
    return F.leaky_relu_(rise, 1 / 3).mul_(3 / 8).add_(middle)


def _patch_maxima_of_all_pixels(mask_logits: Tensor, height: int, width: int, patch: int) -> Tensor:
    """As :func:`_patch_maxima`, by the definition: for any patch and size, at some times the cost."""
    logits = F.interpolate(mask_logits, scale_factor=MASK_STRIDE, mode="bilinear", align_corners=False)
    logits = logits[..., :height, :width]
    beyond = (0, -width % patch, 0, -height % patch)
    if any(beyond):
        logits = F.pad(logits, beyond, value=torch.finfo(logits.dtype).min)
    # Down the rows first: whole rows are compared at once there, which pooling does not.
    return logits.unflatten(-2, (-1, patch)).amax(-2).unflatten(-1, (-1, patch)).amax(-1).flatten(2)


def guidance_matrix(bias: Tensor, register_visible: bool, register: bool = True) -> Tensor:
    """The whole matrix M for tokens [R | I_1..I_N | patches]: rows attend to columns, alike in every head and layer.

    Args:
        bias: (B, N, P) as :func:`guidance_bias` gives it.
        register_visible: may instance tokens attend to the register?
        register: False: nobody may, itself included, which is as if there were none.

    Returns:
        (B, 1 + N + P, 1 + N + P) float, 0 or -inf but for the guidance itself. Always a float bias: boolean masks mean
        opposite things in different attention implementations.
    """
    batch, instances, patches = bias.shape
    blocked = float("-inf")
    matrix = bias.new_zeros(batch, 1 + instances + patches, 1 + instances + patches)
    matrix[:, :, 1 : 1 + instances] = blocked  # nobody sees an instance ...
    matrix[:, 1 : 1 + instances, 1 : 1 + instances] = own_key_bias(instances, bias)  # ... but itself
    if not register_visible:
        matrix[:, 1 : 1 + instances, 0] = blocked
    if not register:
        matrix[:, :, 0] = blocked
    matrix[:, 1 : 1 + instances, 1 + instances :] = bias
    return matrix


def own_key_bias(instances: int, like: Tensor) -> Tensor:
    """(N, N): 0 on the diagonal, -inf elsewhere, with the dtype and device of ``like``."""
    eye = torch.eye(instances, dtype=torch.bool, device=like.device)
    return like.new_zeros(instances, instances).masked_fill(~eye, float("-inf"))
