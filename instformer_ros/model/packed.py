"""Weights packed once, for inference on a CPU.

``F.linear`` arranges its weights for the processor's kernels in every call. Arranged beforehand, and multiplied by
oneDNN whatever else torch would have taken, the same products take less time. The operators are those that
``torch.compile`` emits for CPUs; where torch was built without them, layers stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LEAST = 2**15  # weights of a layer, such as 256 x 128: in smaller ones the call itself costs what is gained


def can_pack(dtype: torch.dtype) -> bool:
    """Can weights of this kind be packed on this machine?"""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class PackedLinear(nn.Module):
    """``activation(x @ weight.T + bias)``."""

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None) -> None:
        """``weight`` (O, I) and ``bias`` (O,) of one dtype that :func:`can_pack` takes."""
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self.bias = None if bias is None else bias.detach()
        fused = _fused(activation)  # applied to numbers while they are at hand, not in a pass of its own
        self._fused: tuple[str, list[float], str | None] = fused or ("none", [], None)
        self._activation = None if fused else activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) of any dtype -> (..., O) of the weight's."""
        y = torch.ops.mkldnn._linear_pointwise(x.to(self.weight.dtype), self.weight, self.bias, *self._fused)
        return y if self._activation is None else self._activation(y)


def _fused(activation: nn.Module | None) -> tuple[str, list[float], str | None] | None:
    """An activation as the operator calls it; None if it knows it not."""
    if type(activation) is nn.SiLU:
        return "swish", [], None
    return ("gelu", [], activation.approximate) if type(activation) is nn.GELU else None


def pack(network: nn.Module) -> None:
    """Replaces linear layers by packed ones, in place, where that pays."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer.weight.numel() >= _LEAST and can_pack(layer.weight.dtype):
                setattr(parent, name, PackedLinear(layer.weight, layer.bias))
                layer.weight.data = layer.weight.data.new_empty(0)  # or all would be there twice meanwhile


def unpack(network: nn.Module) -> None:
    """Lets go of packed weights, which cannot be moved to another device, such as "meta", as others can."""
    for layer in network.modules():
        if isinstance(layer, PackedLinear):
            layer.weight, layer.bias = torch.empty(0), None
