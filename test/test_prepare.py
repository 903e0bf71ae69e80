"""A network made ready for inference says what it said before."""

from __future__ import annotations

import copy

import open_clip
import pytest
import tiny
import torch
from torch import nn

from instformer_ros.model.config import BackboneConfig
from instformer_ros.model.fold import fold_batch_norms, fold_quick_gelu
from instformer_ros.model.normalise import normalise
from instformer_ros.model.resnet import ResNet


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_prepared_equals_plain(dtype: torch.dtype, tolerance: float) -> None:
    """Plain: adapters and norms apart, channels first, and the form of deformable attention that training uses."""
    plain = tiny.model().to(dtype)
    images = tiny.pictures(dtype=dtype)
    wanted = plain(images)
    prepared = copy.deepcopy(plain).prepare()
    with torch.inference_mode():
        seen = prepared(images)
    for a, b in (
        (wanted.proposals.mask_logits, seen.proposals.mask_logits),
        (wanted.proposals.queries, seen.proposals.queries),
        (wanted.proposals.objectness, seen.proposals.objectness),
        (wanted.tokens, seen.tokens),
    ):
        assert a.abs().max() > 0.1
        assert (a - b).abs().max() < tolerance


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_every_batch_norm_is_folded(block: str) -> None:
    torch.manual_seed(0)
    net = ResNet(BackboneConfig(block=block, stem=8, widths=(8, 16, 16, 32), depths=(1, 2, 1, 1))).double()  # type: ignore[arg-type]
    tiny.perturb(net)
    net.eval()
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    wanted = net(image)
    fold_batch_norms(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    for a, b in zip(wanted, net(image), strict=True):
        assert (a - b).abs().max() < 1e-10 * a.abs().max()


@torch.no_grad()
def test_quick_gelu_is_folded_into_its_neighbours() -> None:
    torch.manual_seed(0)
    tower = open_clip.transformer.Transformer(16, 2, 2, act_layer=open_clip.transformer.QuickGELU).double().eval()
    tiny.perturb(tower)
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    wanted = tower(x)
    fold_quick_gelu(tower.resblocks)
    assert all(isinstance(block.mlp.gelu, nn.SiLU) for block in tower.resblocks)
    assert (wanted - tower(x)).abs().max() < 1e-12 * wanted.abs().max()
    again = {name: weight.clone() for name, weight in tower.state_dict().items()}
    fold_quick_gelu(tower.resblocks)  # nothing is left to fold
    assert all(torch.equal(weight, again[name]) for name, weight in tower.state_dict().items())


def test_pictures_are_normalised_alike_in_either_layout() -> None:
    images = 255 * torch.rand(2, 3, 5, 7)
    mean, std = torch.tensor([120.0, 110.0, 100.0]).view(3, 1, 1), torch.tensor([50.0, 60.0, 70.0]).view(3, 1, 1)
    last = normalise(images.to(memory_format=torch.channels_last), mean, std)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, (images - mean) / std)
    assert torch.equal(normalise(images, mean, std), (images - mean) / std)
