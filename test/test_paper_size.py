"""InstCLIP at the paper's size, ViT-B/32 and 100 instances, with random weights: what holds small holds here too."""

from __future__ import annotations

from typing import cast

import pytest
import tiny
import torch
from torch import Tensor

from instformer_ros.model.config import InstClipConfig, preset
from instformer_ros.model.instclip import InstClip
from instformer_ros.model.lora import Lora, block_weights

CLOSE = 1e-5  # float32
N = 100
SIZE = (224, 224)  # CLIP's own


@pytest.fixture(scope="module")
def net() -> InstClip:
    """Training-free, but for I_0 that differ."""
    torch.manual_seed(0)
    made = InstClip(preset("r50-vitb32").clip, InstClipConfig(shift=True), N).eval()
    with torch.no_grad():
        made.instance_tokens += 0.02 * torch.randn_like(made.instance_tokens)
    return made


@pytest.fixture(scope="module")
def images() -> Tensor:
    return tiny.pictures(1, SIZE)


@pytest.fixture(scope="module")
def masks() -> Tensor:
    return tiny.mask_logits(1, N, SIZE)


@pytest.fixture(scope="module")
def answer(net: InstClip, images: Tensor, masks: Tensor) -> Tensor:
    """Instance tokens of the whole frame, (1, N, 512)."""
    with torch.inference_mode():
        tokens: Tensor = net.encode(images, masks).instances
    return tokens


def gap(first: Tensor, second: Tensor) -> float:
    assert first.shape == second.shape
    return float((first - second).abs().max())


@torch.no_grad()
def test_without_guidance_every_token_is_clips_own(net: InstClip, images: Tensor) -> None:
    kept = net.instance_tokens.clone()
    net.reset_tokens()
    output = net.encode_with_bias(images, torch.zeros(1, N, 49))
    net.instance_tokens.copy_(kept)
    wanted = net.clip.encode_image((images - net.pixel_mean) / net.pixel_std)
    assert wanted.std() > 0.1
    assert gap(output.register, wanted) < CLOSE
    assert gap(output.instances, wanted[:, None].expand(-1, N, -1)) < CLOSE


@torch.inference_mode()
def test_two_streams_are_one_masked_attention(net: InstClip, images: Tensor, masks: Tensor, answer: Tensor) -> None:
    assert answer.std() > 0.1
    assert answer.std(1).mean() > 1e-3, "instances differ"
    assert gap(net.encode(images, masks, streams=False).instances, answer) < CLOSE


@torch.inference_mode()
def test_a_mask_changes_its_own_token_alone(net: InstClip, images: Tensor, masks: Tensor, answer: Tensor) -> None:
    changed = masks.clone()
    changed[0, 42] = -masks[0, 42]
    difference = (net.encode(images, changed).instances - answer).abs().amax(-1)[0]
    assert difference[42] > 1e-3
    difference[42] = 0
    assert difference.max() < CLOSE


@torch.inference_mode()
def test_some_tokens_alone_and_in_another_order(net: InstClip, images: Tensor, masks: Tensor, answer: Tensor) -> None:
    some = torch.tensor([99, 3, 57])
    assert gap(net.encode(images, masks[:, some], some).instances, answer[:, some]) < CLOSE


@torch.inference_mode()
def test_a_fresh_adapter_merges_to_nothing(net: InstClip) -> None:
    assert len(net.lora) == 12
    for lora, block in zip(net.lora, net.blocks, strict=True):
        weights = block_weights(block)
        for adapted, plain in zip(cast(Lora, lora).adapt(weights), weights, strict=True):
            assert torch.equal(adapted, plain)
