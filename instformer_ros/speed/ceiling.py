"""How near the stages of the network come to what the device can do: arithmetic in matrix products, and memory."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.packed import PackedLinear, can_pack
from instformer_ros.model.precision import find_precision
from instformer_ros.network import Network
from instformer_ros.preprocess import network_input
from instformer_ros.speed.subjects import Image, Subject
from instformer_ros.speed.timing import Series, interleave

LARGEST = 3  # stages that are set out
_SIDE = {"cuda": 8192, "cpu": 2048}  # of the square matrices: large enough for the full rate
_TRIAD = 2**26  # floats in each of the three arrays: 256 MiB, far more than caches hold
_OVERWRITING = {"copy_", "fill_", "zero_"}  # in place, without reading what was there


def network_stages(model: InstFormer) -> dict[str, nn.Module]:
    """The stages of a frame that are modules of the network, in order."""
    network = model.proposals
    return {
        "backbone": network.backbone,
        "pixel decoder": network.pixel_decoder,
        "mask decoder": network.mask_decoder,
        "instclip": model.instclip,
    }


def against_ceilings(subject: Subject, picture: Image, stages: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Adds to the network's stages what they do, and the shares of both ceilings that they reach.

    Args:
        subject: whose stages they are.
        picture: (H, W, 3) uint8 RGB, of the size at which they were timed.
        stages: by name, as :func:`.time_stages` gives them. Gain ``gflop``, ``gbyte``, ``share_of_matrix_rate`` and
            ``share_of_bandwidth`` where the stage is one of the network's.

    Returns:
        both ceilings, and the names of the network's three largest stages, largest first.
    """
    device, dtype = subject.device, find_precision(subject.precision, subject.device)
    rate, bandwidth = matrix_rate(device, dtype), memory_bandwidth(device)
    images = network_input([picture], subject.config, device)
    for name, (flops, moved) in work(subject, images).items():
        seconds = stages[name]["cpu_median_ms" if _alone(device) else "median_ms"] / 1e3
        stages[name] |= {
            "gflop": flops / 1e9,
            "gbyte": moved / 1e9,
            "share_of_matrix_rate": flops / rate / seconds,
            "share_of_bandwidth": moved / bandwidth / seconds,
        }
    ours = sorted((name for name in stages if "gflop" in stages[name]), key=lambda name: -stages[name]["median_ms"])
    return {
        "matrix_rate_flop_per_second": rate,
        "bandwidth_byte_per_second": bandwidth,
        "largest_stages": ours[:LARGEST],
    }


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations a second of one large matrix product, the best of ten; on a CPU packed as well."""
    side = _SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    products: dict[str, Callable[[], object]] = {"plain": lambda: a @ b}
    if device.type == "cpu" and can_pack(dtype):
        packed = PackedLinear(b, None)
        products["packed"] = lambda: packed(a)
    series = interleave(products, 10, device)
    return 2 * side**3 / min(_least(one, device) for one in series.values())


def memory_bandwidth(device: torch.device, floats: int = _TRIAD) -> float:
    """Bytes a second of STREAM's triad, a = b + s c over float32 arrays, the best of ten.

    Three arrays count, as in STREAM; that a CPU may fetch ``a`` before it writes it does not.
    """
    a, b, c = (torch.ones(floats, device=device) for _ in range(3))
    series = interleave({"triad": lambda: torch.add(b, c, alpha=3.0, out=a)}, 10, device)["triad"]
    return 3 * a.nbytes / _least(series, device)


def _least(series: Series, device: torch.device) -> float:
    """Seconds of the best run."""
    return min(series.cpu if _alone(device) else series.wall)


def _alone(device: torch.device) -> bool:
    """Does one thread do it all? Its processor time is what counts then: waiting for a core does not lengthen it."""
    return device.type == "cpu" and torch.get_num_threads() == 1


@torch.no_grad()
def work(subject: Subject, images: Tensor) -> dict[str, tuple[int, int]]:
    """Floating point operations and bytes of each stage of the prepared network, by counting in one pass.

    Operations are those of matrix products, convolutions and attention; all else counts nothing. For bytes see
    :class:`Traffic`.
    """
    model = subject.copy()
    network = Network(model, subject.device, subject.precision, graphs=False, packed=False)
    counts: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    fused = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    with Traffic() as traffic, FlopCounterMode(display=False, custom_mapping=fused) as flops:
        for name, module in network_stages(model).items():
            _count(module, name, counts, traffic, flops)
        network.tokens(images, network.proposals(images).mask_logits)
    return dict(counts)


def _count(
    module: nn.Module, name: str, counts: dict[str, tuple[int, int]], traffic: Traffic, flops: FlopCounterMode
) -> None:
    """Books what a module does under ``name``; for a model of one's own, from which nobody takes the hooks off."""
    before = (0, 0)

    def note(*_: Any) -> None:
        nonlocal before
        before = flops.get_total_flops(), traffic.bytes

    def book(*_: Any) -> None:
        done, moved = counts[name]
        counts[name] = done + flops.get_total_flops() - before[0], moved + traffic.bytes - before[1]

    module.register_forward_pre_hook(note)
    module.register_forward_hook(book)


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Of torch's fused attention on a CPU, which its own counter does not know."""
    return int(sdpa_flop_count(query, key, value))


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations of torch move, as if nothing stayed in a cache from one to the next.

    Each reads every element of its arguments once and writes every element of its results once. Parameters are
    arguments, so they count at every use; views and allocations move nothing; a repeated (expanded) element counts
    once; what an operation keeps to itself, such as the scores of a fused attention, does not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = (
            [x for x in tree_leaves(tree) if isinstance(x, Tensor)] for tree in ((args, kwargs or {}), result)
        )
        name = func.overloadpacket.__name__
        known = {x.untyped_storage().data_ptr() for x in given}
        shared = bool(made) and all(x.untyped_storage().data_ptr() in known for x in made)
        if func._schema.is_mutable:
            self.bytes += sum(map(_bytes, given[name in _OVERWRITING :])) + sum(map(_bytes, made))
        elif not shared and "empty" not in name:
            self.bytes += sum(map(_bytes, given)) + sum(map(_bytes, made))
        return result


def _bytes(x: Tensor) -> int:
    return x.element_size() * math.prod(n for n, step in zip(x.shape, x.stride(), strict=True) if step)
