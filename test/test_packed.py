"""Packed weights multiply as plain ones do."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instformer_ros.model import instclip, packed
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.packed import PackedLinear, can_pack, pack, unpack
from instformer_ros.network import Network

CPU = torch.device("cpu")
needs_packing = pytest.mark.skipif(not can_pack(torch.float32), reason="this torch has no oneDNN")
needs_bf16 = pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this processor or this torch packs no bf16")


@pytest.fixture(autouse=True)
def small_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny network's layers are smaller than any that packing pays for."""
    monkeypatch.setattr(packed, "_LEAST", 1)


@needs_packing
@pytest.mark.parametrize("activation", [None, nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.Tanh()])
@pytest.mark.parametrize("shape", [(7, 40), (2, 7, 40), (0, 40), (1, 0, 40), (40,)])
def test_a_packed_layer_is_the_layer(shape: tuple[int, ...], activation: nn.Module | None) -> None:
    layer, x = nn.Linear(40, 24), torch.randn(shape)
    wanted = layer(x) if activation is None else activation(layer(x))
    with torch.inference_mode():
        seen = PackedLinear(layer.weight, layer.bias, activation)(x)
    assert seen.shape == wanted.shape
    assert torch.allclose(seen, wanted, atol=1e-6)


@needs_packing
def test_it_takes_views_and_needs_no_bias() -> None:
    weight, x = torch.randn(24, 40), torch.randn(40, 2, 9)
    view = x.permute(1, 2, 0)[:, 3:]
    assert torch.allclose(PackedLinear(weight, None)(view), view @ weight.t(), atol=1e-5)
    assert torch.allclose(PackedLinear(weight[8:16], None)(view), view @ weight[8:16].t(), atol=1e-5)


@needs_packing
@needs_bf16
def test_bf16_takes_any_input_and_answers_in_bf16() -> None:
    layer, x = nn.Linear(40, 24).bfloat16(), torch.randn(3, 40)
    with torch.inference_mode():
        seen = PackedLinear(layer.weight, layer.bias)(x)
    assert seen.dtype == torch.bfloat16
    assert torch.allclose(seen, layer(x.bfloat16()), atol=0.02)


@needs_packing
def test_only_large_layers_of_a_kind_that_can_be_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_LEAST", 1000)
    net = nn.Sequential(
        nn.Linear(40, 24), nn.Linear(40, 25), nn.Sequential(nn.Linear(40, 40)), nn.Linear(40, 40).double()
    )
    pack(net)
    kinds = [type(layer) for layer in (net[0], net[1], net[2][0], net[3])]
    assert kinds == [nn.Linear, PackedLinear, PackedLinear, nn.Linear]


@pytest.fixture(scope="module")
def plain() -> InstFormer:
    return tiny.model()


@torch.inference_mode()
def answer(network: Network) -> tuple[Tensor, Tensor]:
    images = tiny.pictures()
    proposals = network.proposals(images)
    return proposals.mask_logits, network.tokens(images, proposals.mask_logits)


@needs_packing
def test_a_packed_network_answers_as_the_same_unpacked(plain: InstFormer) -> None:
    model, reference = copy.deepcopy(plain), copy.deepcopy(plain)
    seen, wanted = answer(Network(model, CPU)), answer(Network(reference, CPU, packed=False))
    assert sum(isinstance(layer, PackedLinear) for layer in model.proposals.modules()) > 10
    assert model.instclip._packed and not reference.instclip._packed
    assert not any(isinstance(layer, PackedLinear) for layer in reference.modules())
    assert not any(type(layer) is nn.Linear for layer in model.proposals.modules())
    for a, b in zip(seen, wanted, strict=True):
        assert b.abs().max() > 0.1
        assert (a - b).abs().max() < 2e-5 * b.abs().max()


@needs_packing
@needs_bf16
def test_in_bf16_too(plain: InstFormer) -> None:
    (_, seen), (_, wanted) = (answer(Network(copy.deepcopy(plain), CPU, "bf16", packed=p)) for p in (True, False))
    assert F.cosine_similarity(seen, wanted, dim=-1).min() > 0.999


@needs_packing
def test_packed_instclip_has_both_forms_of_its_attention(plain: InstFormer) -> None:
    """With the context wanted, the last block's queries and keys come from layers of their own."""
    model = copy.deepcopy(plain)
    Network(model, CPU)
    images = tiny.pictures()
    masks = 20 * (torch.rand(len(images), tiny.QUERIES, images.shape[2] // 4, images.shape[3] // 4) - 0.5)
    with torch.inference_mode():
        two, one = (model.instclip.encode(images, masks, streams=streams) for streams in (True, False))
        wanted = plain.instclip.encode(images, masks)
        alone = model.instclip(images, masks)
    for a, b in ((two, one), (two, wanted)):
        for name in ("instances", "register", "patches"):
            assert torch.allclose(getattr(a, name), getattr(b, name), atol=1e-4), name
    assert torch.allclose(alone, F.normalize(two.instances, dim=-1), atol=1e-5)


@needs_packing
def test_what_is_known_of_instances_beforehand_is_right_for_any_queries(plain: InstFormer) -> None:
    model = copy.deepcopy(plain)
    Network(model, CPU)
    images = tiny.pictures()
    masks = 20 * (torch.rand(len(images), 4, images.shape[2] // 4, images.shape[3] // 4) - 0.5)
    row = torch.tensor([3, 0, 5, 3])
    with torch.inference_mode():
        for queries in (None, row, torch.stack([row.roll(n) for n in range(len(images))])):
            assert torch.allclose(
                model.instclip(images, masks, queries), plain.instclip(images, masks, queries), atol=1e-4
            )
        assert model.instclip(images, masks[:, :0]).shape[1] == 0
    tokens = plain.instclip(images, masks)
    assert not torch.allclose(tokens, plain.instclip(images, masks, row), atol=1e-2), "queries make no difference"


@needs_packing
def test_the_weights_are_there_once_and_go_when_the_network_does(plain: InstFormer) -> None:
    model = copy.deepcopy(plain)
    network = Network(model, CPU)
    block = model.instclip.blocks[0]
    for weight in (
        block.attn.in_proj_weight,
        block.attn.out_proj.weight,
        block.mlp.c_fc.weight,
        block.mlp.c_proj.weight,
    ):
        assert not weight.numel()
    layer = next(layer for layer in model.proposals.modules() if isinstance(layer, PackedLinear))
    assert layer.weight.numel() and model.instclip._packed
    network.close()
    assert not layer.weight.numel() and layer.bias is None and model.instclip._packed is None
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_where_nothing_can_be_packed_all_stays(plain: InstFormer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not can_pack(torch.float32) and not can_pack(torch.bfloat16)
    model = copy.deepcopy(plain)
    seen, wanted = answer(Network(model, CPU)), answer(Network(copy.deepcopy(plain), CPU, packed=False))
    assert all(torch.equal(a, b) for a, b in zip(seen, wanted, strict=True))
    assert model.instclip._packed is None and model.instclip.blocks[0].mlp.c_fc.weight.numel()
    unpack(model)


def test_double_precision_is_not_packed() -> None:
    assert not can_pack(torch.float64) and not can_pack(torch.float16)
    assert instclip.can_pack is can_pack
