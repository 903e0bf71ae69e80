"""At which precision a network computes: weights of half the size, and autocast for all that needs more."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import nn

from instformer_ros.structures import InstformerError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_precision(name: str, device: torch.device) -> torch.dtype:
    """``fp32``, ``bf16``, ``fp16`` or ``auto``: bf16 on GPUs that have it, fp32 on the others and on CPUs.

    Raises:
        InstformerError: it is none of these, or the device has no such arithmetic.
    """
    if name not in PRECISIONS:
        raise InstformerError(f"precision '{name}' is unknown; use one of {', '.join(PRECISIONS)}")
    if name == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if has_bf16 else torch.float32
    if name == "fp16" and device.type == "cpu":
        raise InstformerError("precision 'fp16' is for GPUs; use bf16 or fp32 on a CPU")
    return _TYPES[name]


def lower(network: nn.Module, dtype: torch.dtype) -> None:
    """Converts the weights of convolutions, linear layers and packed projections, in place, for use under autocast.

    Autocast would convert them anew in every pass. Norms, embeddings, tokens and positions stay in fp32.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.to(dtype)
        for name, parameter in module.named_parameters(recurse=False):
            if name.startswith("in_proj"):
                parameter.data = parameter.data.to(dtype)
