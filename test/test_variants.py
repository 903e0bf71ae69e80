"""The paper's baselines: what N pictures through CLIP see, and one option for each part that may differ."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any, get_args

import pytest
import tiny
import torch
from torch.nn import functional as F

from instformer_ros import variant_options
from instformer_ros.model.config import (
    Association,
    Classifier,
    Guidance,
    InstClipConfig,
    LoraPlacement,
    ModelConfig,
    Rollout,
    RolloutConfig,
)
from instformer_ros.model.crops import CropClip, mask_boxes, widen
from instformer_ros.model.instformer import InstFormer
from instformer_ros.model.variants import Variant, vary
from instformer_ros.structures import InstformerError

CLOSE = 1e-5
KINDS = ("masked-images", "masked-crops", "crops")


def crop_clip(kind: Classifier) -> CropClip:
    torch.manual_seed(3)
    made = tiny.config()
    net = CropClip(made.clip, made.instclip, tiny.QUERIES, kind)
    tiny.perturb(net, 1)
    return net.eval()


def normalised(net: CropClip, images: torch.Tensor) -> torch.Tensor:
    return (images - net.pixel_mean) / net.pixel_std


def box_logits(*boxes: tuple[int, int, int, int], size: tuple[int, int] = tiny.SIZE) -> torch.Tensor:
    """(1, N, h, w): each mask a box x0, y0, x1, y1 in cells of 4 pixels."""
    logits = torch.full((1, len(boxes), size[0] // 4, size[1] // 4), -20.0)
    for n, (x0, y0, x1, y1) in enumerate(boxes):
        logits[0, n, y0:y1, x0:x1] = 20.0
    return logits


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1, 2])
def test_a_full_mask_is_clip_on_the_whole_frame(kind: Any, scale: int) -> None:
    net, size = crop_clip(kind), (scale * tiny.SIZE[0], scale * tiny.SIZE[1])
    images = tiny.pictures(2, size)
    logits = torch.full((2, 3, size[0] // 4, size[1] // 4), 20.0)
    wanted = net.clip.encode_image(normalised(net, F.avg_pool2d(images, scale)), normalize=True)
    tokens = net(images, logits)
    assert tokens.shape == (2, 3, net.embed_dim)
    assert (tokens - wanted[:, None]).abs().max() < CLOSE


@torch.no_grad()
def test_a_crop_is_clip_on_that_part() -> None:
    """A box of half the frame's height, of its aspect: CLIP on the part, enlarged, with and without what is around."""
    net = crop_clip("crops")
    images = tiny.pictures(1, (2 * tiny.SIZE[0], 2 * tiny.SIZE[1]))
    logits = box_logits((4, 3, 20, 15), size=(2 * tiny.SIZE[0], 2 * tiny.SIZE[1]))
    part = normalised(net, images[..., 12:60, 16:80])  # bilinear logits keep the box's edges, but round its corners
    assert (net(images, logits)[0] - net.clip.encode_image(part, normalize=True)).abs().max() < CLOSE
    for y in (0, -1):
        for x in (0, -1):
            part[..., y, x] = 0
    wanted = net.clip.encode_image(part, normalize=True)
    assert (crop_clip("masked-crops")(images, logits)[0] - wanted).abs().max() < CLOSE
    assert (crop_clip("masked-images")(images, logits)[0] - wanted).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize(("kind", "hidden"), [("masked-images", True), ("masked-crops", True), ("crops", False)])
def test_what_masked_pictures_do_not_show(kind: Any, hidden: bool) -> None:
    net, images = crop_clip(kind), tiny.pictures(1)
    logits = box_logits((2, 2, 4, 4), (2, 2, 10, 4))
    logits[0, 0, 8, 12] = 20.0  # a mask of two parts: the box between them is not of it
    changed = images.clone()
    changed[..., 20:28, 20:28] += 90
    same = (net(images, logits)[0, 0] - net(changed, logits)[0, 0]).abs().max() < CLOSE
    assert bool(same) is hidden


@torch.no_grad()
def test_beyond_the_frame_lies_the_mean_colour() -> None:
    net, images = crop_clip("crops"), tiny.pictures(1)
    tall = box_logits((0, 0, 2, 12))  # 8 x 48 pixels: widened to 64 x 48 about x = 4
    wanted = F.pad(normalised(net, images)[..., :36], (28, 0))
    assert (net(images, tall)[0] - net.clip.encode_image(wanted, normalize=True)).abs().max() < CLOSE


@torch.no_grad()
def test_instances_do_not_meet_and_none_is_none() -> None:
    net, images, logits = crop_clip("masked-crops"), tiny.pictures(2), tiny.mask_logits(2, 20)
    tokens = net(images, logits)
    assert (net(images[1:], logits[1:, [17, 4]])[0] - tokens[1, [17, 4]]).abs().max() < CLOSE
    assert net(images, logits[:, :0]).shape == (2, 0, net.embed_dim)
    assert torch.isfinite(net(images, torch.full((2, 2, 12, 16), -20.0))).all()  # empty masks


def test_boxes() -> None:
    masks = torch.zeros(2, 6, 9, dtype=torch.bool)
    masks[0, 2:4, 3] = masks[0, 3, 3:8] = True
    assert mask_boxes(masks).tolist() == [[3, 2, 8, 4], [0, 0, 9, 6]]
    assert widen(torch.tensor([[2.0, 2.0, 4.0, 8.0]]), 2.0).tolist() == [[-3.0, 2.0, 9.0, 8.0]]
    assert widen(torch.tensor([[0.0, 2.0, 8.0, 4.0]]), 2.0).tolist() == [[0.0, 1.0, 8.0, 5.0]]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_baseline_is_frozen_clip(kind: Any) -> None:
    """The adapters of the checkpoint stay out of it, also after the engine has asked to merge them."""
    model = tiny.model()
    varied = vary(model, Variant(classifier=kind))
    images, logits = tiny.pictures(1), tiny.mask_logits(1)
    before = varied.instclip(images, logits)
    varied.instclip.merge_lora()
    assert torch.equal(varied.instclip(images, logits), before)
    fresh = crop_clip(kind)
    fresh.load_state_dict(model.instclip.state_dict())
    assert torch.equal(fresh(images, logits), before)


@torch.no_grad()
def test_variants_share_the_weights_and_differ_in_one_part() -> None:
    model, images = tiny.model(), tiny.pictures(1)
    plain = model(images)
    assert vary(model, Variant()) is model and vary(model, Variant(guidance="designed")) is model
    for change in (Variant(guidance="none"), Variant(guidance="binary"), Variant(register_visible=True)):
        varied = vary(model, change)
        seen = varied(images)
        assert torch.equal(seen.proposals.mask_logits, plain.proposals.mask_logits)
        assert (seen.tokens - plain.tokens).abs().max() > 1e-3, change
        assert varied.config == change.config(model.config)
    by_query = vary(model, Variant(association="query", rollout="none"))
    queries = plain.proposals.queries[0]
    assert torch.equal(by_query.rollout.tokens(queries, plain.tokens[0]), F.normalize(queries, dim=-1))
    assert by_query.rollout.width == queries.shape[-1]


def test_a_rollout_that_was_never_trained_is_refused() -> None:
    for change in (Variant(rollout="mlp"), Variant(association="query")):
        with pytest.raises(InstformerError, match="has a rollout tracker 'rnn' for query") as caught:
            vary(tiny.model(), change)
        assert "\n" not in str(caught.value) and "none" in str(caught.value)


@torch.no_grad()
def test_without_register_nobody_reads_it() -> None:
    net = tiny.instclip(register=False)
    images, logits = tiny.pictures(), tiny.mask_logits()
    streams, whole = (net.encode(images, logits, streams=s) for s in (True, False))
    assert (streams.instances - whole.instances).abs().max() < CLOSE
    assert (streams.patches - whole.patches).abs().max() < CLOSE
    assert (streams.register - whole.register).abs().max() < CLOSE
    net.register_token += 3
    moved = net.encode(images, logits)
    assert torch.equal(moved.instances, streams.instances) and torch.equal(moved.patches, streams.patches)
    assert (tiny.instclip().encode(images, logits).patches - streams.patches).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("placement", get_args(LoraPlacement))
def test_lora_goes_where_it_is_placed(placement: Any) -> None:
    """Neutral at first, bit for bit; then it changes what it names alone; merged = unmerged."""
    torch.manual_seed(3)
    made = tiny.config(lora_placement=placement)
    net = tiny.instclip(perturbed=False, lora_placement=placement)
    images, logits = tiny.pictures(), tiny.mask_logits()
    bare = tiny.instclip(perturbed=False, lora_rank=0)
    bare.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("lora.")})
    assert torch.equal(net(images, logits), bare(images, logits))
    tiny.perturb(net.lora)
    block, before = net.blocks[0], {k: v.clone() for k, v in net.blocks[0].state_dict().items()}
    unmerged = net(images, logits)
    assert (unmerged - bare(images, logits)).abs().max() > 1e-3
    net.merge_lora()
    assert (net(images, logits) - unmerged).abs().max() < CLOSE
    width = block.attn.in_proj_bias.shape[0] // 3
    changed = {k: not torch.equal(v, before[k]) for k, v in block.state_dict().items()}
    q, k, v = (
        not torch.equal(a, b)
        for a, b in zip(block.attn.in_proj_weight.split(width), before["attn.in_proj_weight"].split(width), strict=True)
    )
    assert (q, k, v) == ("q" in placement, "k" in placement, "v" in placement)
    assert changed["mlp.c_fc.weight"] == changed["mlp.c_proj.weight"] == ("ffn" in placement)
    assert not changed["mlp.c_fc.bias"] and not changed["attn.out_proj.weight"]
    assert made.instclip.lora_placement == placement


def test_configs_keep_and_check_the_choices() -> None:
    config = replace(
        tiny.config(),
        classifier="crops",
        instclip=InstClipConfig(register=False, lora_placement="ffn"),
        rollout=RolloutConfig(kind="mlp", association="query"),
    )
    assert ModelConfig.from_dict(config.to_dict()) == config
    for part, key in ((None, "classifier"), ("rollout", "association"), ("instclip", "lora_placement")):
        data = config.to_dict()
        (data if part is None else data[part])[key] = "guess"
        with pytest.raises(InstformerError, match=f"{key} 'guess'"):
            ModelConfig.from_dict(data)


def test_options_name_every_choice() -> None:
    assert get_args(Classifier) == variant_options.CLASSIFIERS
    assert get_args(Guidance) == variant_options.GUIDANCE
    assert get_args(Association) == variant_options.ASSOCIATIONS
    assert get_args(Rollout) == variant_options.ROLLOUTS
    parser = argparse.ArgumentParser()
    variant_options.add_variant_options(parser)
    assert variant_options.variant_of(parser.parse_args([])) == Variant()
    words = "--classifier crops --guidance binary --register-visible --association query --rollout none"
    given = parser.parse_args(words.split())
    assert variant_options.variant_of(given) == Variant("crops", "binary", True, "query", "none")
    assert InstFormer(variant_options.variant_of(given).config(tiny.config())).instclip.kind == "crops"
