"""How much of the device's matrix rate a stage reaches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from instformer_ros.model.instformer import InstFormer
from instformer_ros.speed.timing import interleave

_SIDE = {"cuda": 8192, "cpu": 2048}  # of the square matrices: large enough for the full rate
_MODULES = {
    "backbone": "proposals.backbone",
    "pixel decoder": "proposals.pixel_decoder",
    "mask decoder": "proposals.mask_decoder",
    "instclip": "instclip",
}


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations a second of one large matrix product, the best of ten."""
    side = _SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    series = interleave({"product": lambda: a @ b}, 10, device)["product"]
    return 2 * side**3 / min(series.cpu if device.type == "cpu" and torch.get_num_threads() == 1 else series.wall)


@torch.no_grad()
def operations(model: InstFormer, images: Tensor) -> dict[str, int]:
    """Floating point operations of each stage in matrix products and convolutions; all else counts nothing."""
    with FlopCounterMode(display=False) as counter:
        model(images)
    counts = counter.get_flop_counts()
    return {stage: sum(counts[f"InstFormer.{module}"].values()) for stage, module in _MODULES.items()}
