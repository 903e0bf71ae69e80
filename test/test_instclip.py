"""InstCLIP against CLIP itself and against its own invariants: what must hold whatever the weights are."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch.nn import functional as F

from instformer_ros.model.instclip import InstClip, InstClipOutput, resize_positions
from instformer_ros.model.lora import BlockWeights, Lora

EXACT = 1e-12  # float64
CLOSE = 1e-5  # float32
TYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, EXACT), (torch.float32, CLOSE)])
KINDS = pytest.mark.parametrize("guidance", ["designed", "binary", "none"])


def gap(first: Tensor, second: Tensor) -> float:
    """Largest absolute difference."""
    assert first.shape == second.shape
    return float((first - second).abs().max())


def own_answer(net: InstClip, images: Tensor) -> Tensor:
    """What the CLIP library itself says of pictures of the native size."""
    embedding: Tensor = net.clip.encode_image((images - net.pixel_mean) / net.pixel_std)
    return embedding


def scale_of(output: InstClipOutput) -> float:
    """Guards against tolerances that hold because everything is nought."""
    return float(output.instances.std())


@torch.no_grad()
@TYPES
@pytest.mark.parametrize("streams", [True, False])
def test_without_guidance_every_token_is_clip(dtype: torch.dtype, tolerance: float, streams: bool) -> None:
    net = tiny.instclip(dtype, guidance="none", lora_rank=0)
    net.reset_tokens()
    images = tiny.pictures(dtype=dtype)
    output = net.encode(images, tiny.mask_logits(dtype=dtype), streams=streams)
    wanted = own_answer(net, images)
    assert wanted.std() > 0.1
    assert gap(output.register, wanted) < tolerance
    assert gap(output.instances, wanted[:, None].expand_as(output.instances)) < tolerance


@torch.no_grad()
def test_a_full_mask_is_clip_only_with_shift() -> None:
    images, full = tiny.pictures(), torch.full((2, tiny.QUERIES, 12, 16), 30.0)
    for shift in (True, False):
        net = tiny.instclip(guidance="designed", lora_rank=0, shift=shift)
        net.reset_tokens()
        distance = gap(net.encode(images, full).instances[:, 0], own_answer(net, images))
        assert distance < CLOSE if shift else distance > 1e-3


@torch.no_grad()
@TYPES
@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("visible", [False, True])
def test_frame_features_do_not_depend_on_masks_or_their_number(
    dtype: torch.dtype, tolerance: float, streams: bool, visible: bool
) -> None:
    net = tiny.instclip(dtype, register_visible=visible)
    images, masks = tiny.pictures(dtype=dtype), tiny.mask_logits(dtype=dtype)
    full = net.encode(images, masks, streams=streams)
    for other in (masks.flip(1), -masks, masks[:, :1], masks[:, :0]):
        output = net.encode(images, other, streams=streams)
        assert gap(output.register, full.register) < tolerance
        assert gap(output.patches, full.patches) < tolerance


@torch.no_grad()
@TYPES
@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("guidance", ["designed", "binary"])
def test_changing_a_mask_changes_its_token_alone(
    dtype: torch.dtype, tolerance: float, streams: bool, guidance: str
) -> None:
    net = tiny.instclip(dtype, guidance=guidance)
    images, masks = tiny.pictures(dtype=dtype), tiny.mask_logits(dtype=dtype)
    before = net.encode(images, masks, streams=streams).instances
    changed = masks.clone()
    changed[1, 2] = -masks[1, 2]
    after = net.encode(images, changed, streams=streams).instances
    difference = (after - before).abs().amax(-1)
    assert difference[1, 2] > 1e-3
    difference[1, 2] = 0
    assert difference.max() < tolerance


@torch.no_grad()
@TYPES
@pytest.mark.parametrize("streams", [True, False])
def test_permuting_masks_and_first_tokens_permutes_the_answers(
    dtype: torch.dtype, tolerance: float, streams: bool
) -> None:
    net = tiny.instclip(dtype)
    images, masks = tiny.pictures(dtype=dtype), tiny.mask_logits(dtype=dtype)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    plain = net.encode(images, masks, streams=streams)
    named = net.encode(images, masks[:, order], order, streams=streams)
    assert gap(named.instances, plain.instances[:, order]) < tolerance
    net.instance_tokens.copy_(net.instance_tokens[order])
    moved = net.encode(images, masks[:, order], streams=streams)
    assert gap(moved.instances, plain.instances[:, order]) < tolerance
    # and the first tokens do matter
    assert gap(net.encode(images, masks, streams=streams).instances, plain.instances) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("streams", [True, False])
def test_a_hard_mask_is_clip_whose_class_token_sees_those_patches_only(streams: bool) -> None:
    """The reference walks through the library's own attention layers and leaves the other patches out of the keys."""
    net = tiny.instclip(guidance="binary", lora_rank=0)
    net.reset_tokens()
    images = tiny.pictures(1)
    patches = [9, 10, 17, 18, 19, 33]  # of a grid of 6 rows and 8 columns
    masks = torch.full((1, 1, 6, 8), -5.0)
    masks.view(-1)[patches] = 5.0
    bias = torch.zeros(1, 1, 48).masked_fill(masks.flatten(2) < 0, float("-inf"))
    output = net.encode_with_bias(images, bias, streams=streams).instances[0, 0]

    contexts: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, inputs: contexts.append(inputs[0])) for block in net.blocks]
    own_answer(net, images)
    for hook in hooks:
        hook.remove()
    token = contexts[0][:, :1].clone()
    for block, context in zip(net.blocks, contexts, strict=True):
        seen = block.ln_1(torch.cat([token, context[:, 1:][:, patches]], 1))
        token = token + block.attn(seen[:, :1], seen, seen, need_weights=False)[0]
        token = token + block.mlp(block.ln_2(token))
    wanted = (net.visual.ln_post(token) @ net.visual.proj)[0, 0]
    assert gap(output, wanted) < CLOSE
    assert gap(output, own_answer(net, images)[0]) > 1e-2


@torch.no_grad()
@KINDS
@pytest.mark.parametrize("visible", [False, True])
@pytest.mark.parametrize("size", [tiny.SIZE, (44, 92)])  # native, and one that no patch divides
def test_two_streams_are_one_masked_attention(guidance: str, visible: bool, size: tuple[int, int]) -> None:
    net = tiny.instclip(guidance=guidance, register_visible=visible)
    images, masks = tiny.pictures(2, size), tiny.mask_logits(2, tiny.QUERIES, size)
    two, one = (net.encode(images, masks, streams=streams) for streams in (True, False))
    assert scale_of(two) > 0.1
    for a, b in ((two.instances, one.instances), (two.register, one.register), (two.patches, one.patches)):
        assert gap(a, b) < CLOSE


@torch.no_grad()
def test_two_streams_are_one_masked_attention_in_half_precision() -> None:
    net = tiny.instclip(torch.bfloat16)
    images, masks = tiny.pictures(dtype=torch.bfloat16), tiny.mask_logits(dtype=torch.bfloat16)
    two, one = (net.encode(images, masks, streams=streams) for streams in (True, False))
    for a, b in ((two.instances, one.instances), (two.patches, one.patches)):
        assert F.cosine_similarity(a.float(), b.float(), dim=-1).min() >= 0.999


@torch.no_grad()
def test_a_visible_register_matters() -> None:
    images, masks = tiny.pictures(), tiny.mask_logits()
    blocked, visible = (tiny.instclip(register_visible=v).encode(images, masks).instances for v in (False, True))
    assert gap(blocked, visible) > 1e-4


@torch.no_grad()
@TYPES
@pytest.mark.parametrize("streams", [True, False])
def test_some_tokens_computed_alone_are_the_same(dtype: torch.dtype, tolerance: float, streams: bool) -> None:
    net = tiny.instclip(dtype)
    images, masks = tiny.pictures(dtype=dtype), tiny.mask_logits(dtype=dtype)
    full = net.encode(images, masks, streams=streams).instances
    some = torch.tensor([4, 1])
    assert gap(net.encode(images, masks[:, some], some, streams=streams).instances, full[:, some]) < tolerance
    apart = torch.tensor([[4, 1], [0, 3]])  # another choice for each picture
    rows = torch.arange(2)[:, None]
    assert gap(net.encode(images, masks[rows, apart], apart, streams=streams).instances, full[rows, apart]) < tolerance


@torch.no_grad()
def test_pictures_of_a_batch_do_not_meet() -> None:
    net = tiny.instclip(torch.float64)
    images, masks = tiny.pictures(3, dtype=torch.float64), tiny.mask_logits(3, dtype=torch.float64)
    together = net(images, masks)
    assert gap(together.norm(dim=-1), torch.ones(3, tiny.QUERIES, dtype=torch.float64)) < EXACT
    for i in range(3):
        assert gap(net(images[i : i + 1], masks[i : i + 1])[0], together[i]) < EXACT


@torch.no_grad()
def test_the_border_is_padded_with_the_mean_colour() -> None:
    net = tiny.instclip(torch.float64)
    images = tiny.pictures(1, (44, 60), torch.float64)
    padded = net.pixel_mean.expand(1, 3, 48, 64).clone()
    padded[..., :44, :60] = images
    bias = torch.randn(1, 2, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert gap(net.encode_with_bias(images, bias).instances, net.encode_with_bias(padded, bias).instances) < EXACT


# -- LoRA -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("streams", [True, False])
def test_a_fresh_adapter_is_neutral_bit_for_bit(streams: bool) -> None:
    adapted, plain = tiny.instclip(perturbed=False), tiny.instclip(perturbed=False, lora_rank=0)
    plain.load_state_dict({k: v for k, v in adapted.state_dict().items() if not k.startswith("lora")})
    assert len(adapted.lora) == 3
    images, masks = tiny.pictures(), tiny.mask_logits()
    with_lora, without = (net.encode(images, masks, streams=streams) for net in (adapted, plain))
    assert torch.equal(with_lora.instances, without.instances)
    assert torch.equal(with_lora.register, without.register)
    assert torch.equal(with_lora.patches, without.patches)


@torch.no_grad()
def test_merged_adapters_answer_alike_and_leave_the_keys_alone() -> None:
    net = tiny.instclip()
    images, masks = tiny.pictures(), tiny.mask_logits()
    before = net.encode(images, masks)
    weights = [block.attn.in_proj_weight.clone() for block in net.blocks]
    net.merge_lora()
    assert not len(net.lora)
    assert gap(net.encode(images, masks).instances, before.instances) < CLOSE
    width = weights[0].shape[1]
    for old, block in zip(weights, net.blocks, strict=True):
        q, k, v = block.attn.in_proj_weight.chunk(3)
        assert torch.equal(k, old[width : 2 * width])
        assert gap(q, old[:width]) > 1e-2
        assert gap(v, old[2 * width :]) > 1e-2
    net.merge_lora()  # a second time: nothing is left to fold in
    assert gap(net.encode(images, masks).instances, before.instances) < CLOSE


@torch.no_grad()
def test_the_adapter_adds_a_low_rank_path_to_query_and_value() -> None:
    """Against the paper's formula: W x + alpha / r * B (A x), on q and v."""
    torch.manual_seed(0)
    lora = Lora(width=12, rank=3, alpha=6.0).double()
    tiny.perturb(lora)
    weight, x = torch.randn(36, 12, dtype=torch.float64), torch.randn(5, 12, dtype=torch.float64)
    q, k, v = F.linear(x, weight).chunk(3, -1)
    wanted = torch.cat(
        [q + 2.0 * (x @ lora.query_a.t()) @ lora.query_b.t(), k, v + 2.0 * (x @ lora.value_a.t()) @ lora.value_b.t()],
        -1,
    )
    adapted = lora.adapt(BlockWeights(weight, torch.zeros(1), torch.zeros(1))).in_proj
    assert gap(F.linear(x, adapted), wanted) < EXACT


@pytest.mark.parametrize("streams", [True, False])
def test_gradients_reach_adapters_and_first_tokens_only(streams: bool) -> None:
    net = tiny.instclip(perturbed=False)
    masks = tiny.mask_logits().requires_grad_()
    output = net.encode(tiny.pictures(), masks, streams=streams).instances
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert masks.grad is None, "InstCLIP never trains the masks"
    moved: dict[str, Any] = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    learning = {name for name in dict(net.named_parameters()) if not name.startswith("clip.")}
    assert set(moved) == learning
    assert {"instance_tokens", "register_token", "lora.0.query_a", "lora.2.value_b"} <= learning
    for name, gradient in moved.items():
        if name.endswith("_a"):
            assert not gradient.any(), f"{name} has a gradient while B = 0"
        elif name.startswith("lora"):
            assert gradient.any(), f"{name} has no gradient"
    assert (moved["instance_tokens"].abs().amax(1) > 0).all()
    assert moved["register_token"].any(), "patches see the register, and instances the patches"


# -- positions --------------------------------------------------------------------------------------------------------


def test_positions_are_untouched_at_the_native_grid() -> None:
    table = torch.randn(48, 32)
    assert torch.equal(resize_positions(table, (6, 8), (6, 8)), table)


def test_positions_of_another_grid_run_the_same_way() -> None:
    row, column = torch.meshgrid(torch.linspace(0, 1, 6), torch.linspace(0, 1, 8), indexing="ij")
    table = torch.stack([row.flatten(), column.flatten(), torch.full((48,), 0.5)], 1)
    resized = resize_positions(table, (6, 8), (12, 10)).view(12, 10, 3)
    assert torch.allclose(resized[..., 2], torch.tensor(0.5), atol=1e-5), "weights sum to one"
    assert (resized[1:, :, 0] > resized[:-1, :, 0]).all(), "the first coordinate grows downwards"
    assert (resized[:, 1:, 1] > resized[:, :-1, 1]).all(), "the second grows to the right"
    assert float((resized[:, 1:, 0] - resized[:, :-1, 0]).abs().max()) < 1e-5
