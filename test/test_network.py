"""The network as the engine runs it: precision, determinism, and what a GPU's graphs ask of it."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.precision import find_precision
from instformer_ros.network import Captured, Network
from instformer_ros.structures import InstformerError

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def plain() -> InstFormer:
    return tiny.model()


@torch.inference_mode()
def answer(network: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mask logits and tokens, copied."""
    proposals = network.proposals(images)
    return proposals.mask_logits.clone(), network.tokens(images, proposals.mask_logits).clone()


def test_fp32_equals_the_plain_network(plain: InstFormer) -> None:
    images = tiny.pictures()
    wanted = plain(images)
    masks, tokens = answer(Network(copy.deepcopy(plain), CPU), images)
    assert (masks - wanted.proposals.mask_logits).abs().max() < 2e-4
    assert (tokens - wanted.tokens).abs().max() < 2e-4


def test_two_runs_are_the_same_bit_for_bit(plain: InstFormer) -> None:
    images = tiny.pictures()
    network = Network(copy.deepcopy(plain), CPU)
    first = answer(network, images)
    for second in (answer(network, images), answer(Network(copy.deepcopy(plain), CPU), images)):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_bf16_is_near_and_its_answers_are_fp32(plain: InstFormer) -> None:
    images = tiny.pictures()
    with torch.no_grad():
        wanted = plain(images)
    low = copy.deepcopy(plain)
    network = Network(low, CPU, "bf16")
    assert low.proposals.backbone.conv1.weight.dtype == torch.bfloat16
    assert low.instclip.visual.transformer.resblocks[0].attn.in_proj_weight.dtype == torch.bfloat16
    assert low.instclip.clip.transformer.resblocks[0].attn.in_proj_weight.dtype == torch.float32  # the text tower
    with torch.inference_mode():
        tokens = network.tokens(images, wanted.proposals.mask_logits)
        masks = network.proposals(images).mask_logits
    assert tokens.dtype == masks.dtype == torch.float32
    assert F.cosine_similarity(tokens, wanted.tokens, dim=-1).min() > 0.999
    assert ((masks > 0) == (wanted.proposals.mask_logits > 0)).float().mean() > 0.95
    assert not torch.equal(tokens, wanted.tokens)


def test_precisions_by_name() -> None:
    assert find_precision("auto", CPU) == find_precision("fp32", CPU) == torch.float32
    assert find_precision("bf16", CPU) == torch.bfloat16
    for name in ("half", "", "fp16"):
        with pytest.raises(InstformerError, match=f"precision '{name}'") as caught:
            find_precision(name, CPU)
        assert "\n" not in str(caught.value)


class _Host(TorchDispatchMode):
    """Notes every operation that a GPU could not do without its host."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "lift_fresh", "masked_select", "equal"):
            self.seen.add(name)
        return func(*args, **(kwargs or {}))


def test_a_pass_never_waits_for_the_host(plain: InstFormer) -> None:
    """No value is read back and none is copied over, or no graph could be captured. With gradients: a GPU's way."""
    prepared = copy.deepcopy(plain).prepare()
    images = tiny.pictures()
    with _Host() as host:
        prepared(images)
    assert host.seen == set()
    with _Host() as host:
        torch.tensor([1.0])
        float(images.sum())
    assert host.seen == {"lift_fresh", "_local_scalar_dense"}, "the test itself"


@needs_gpu
def test_graphs_answer_as_the_network_does(plain: InstFormer) -> None:
    gpu = torch.device("cuda")
    eager, graphed = (Network(copy.deepcopy(plain), gpu, "fp32", graphs=graphs) for graphs in (False, True))
    for seed in range(3):  # captured at the first, replayed from the second
        images = tiny.pictures().roll(seed, 0).to(gpu) / (seed + 1)
        for a, b in zip(answer(eager, images), answer(graphed, images), strict=True):
            assert (a - b).abs().max() < 1e-3
    small = tiny.pictures(size=(32, 32)).to(gpu)
    assert answer(graphed, small)[0].shape[-2:] == (8, 8)


def test_without_graphs_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Captured, arguments: Any) -> Any:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(Captured, "_capture", fails)
    captured = Captured(lambda x: (2 * x,), stream=None)  # type: ignore[arg-type]
    with pytest.warns(
        UserWarning, match="frames take longer: CUDA error: operation not permitted when stream is capturing$"
    ):
        assert captured(torch.ones(2))[0].tolist() == [2, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert captured(torch.ones(3))[0].tolist() == [2, 2, 2], "said once"


@needs_gpu
def test_graphs_are_kept_for_so_many_sizes_only() -> None:
    layer = nn.Linear(4, 4).cuda()
    captured = Captured(lambda x: (layer(x),), torch.cuda.Stream())
    with torch.inference_mode():
        for rows in range(1, 12):
            x = torch.randn(rows, 4, device="cuda")
            assert torch.allclose(captured(x)[0], layer(x), atol=1e-5)
