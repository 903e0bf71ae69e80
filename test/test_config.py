"""Sizes by name, and back from JSON."""

from __future__ import annotations

import json

import pytest
import tiny
import torch

from instformer_ros.model.config import PRESETS, BackboneConfig, ModelConfig, SwinConfig, preset
from instformer_ros.model.resnet import ResNet
from instformer_ros.structures import InstformerError


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_survive_json(name: str) -> None:
    config = preset(name)
    assert config.name == name
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_papers_preset() -> None:
    config = preset("r50-vitb32")
    assert config.proposals.backbone == BackboneConfig("bottleneck", 64, (256, 512, 1024, 2048), (3, 4, 6, 3), True)
    assert (config.proposals.queries, config.proposals.width) == (100, 256)
    assert (config.proposals.encoder_layers, config.proposals.decoder_layers) == (6, 9)
    assert (config.clip.architecture, config.clip.quick_gelu) == ("ViT-B-32", True)
    assert isinstance(preset("swint-vitb32").proposals.backbone, SwinConfig)
    with pytest.raises(InstformerError, match="no preset is called 'r101'; use one of r50-vitb32, "):
        preset("r101")


def test_backbones_of_older_checkpoints_and_unknown_ones() -> None:
    data = tiny.config().to_dict()
    for key in ("kind", "frozen_norm"):
        del data["proposals"]["backbone"][key]
    assert ModelConfig.from_dict(data) == tiny.config()
    data["proposals"]["backbone"]["kind"] = "vgg"
    with pytest.raises(InstformerError, match="backbone 'vgg'; use one of resnet, swin"):
        ModelConfig.from_dict(data)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_normalisation_keeps_its_statistics_in_training(frozen: bool) -> None:
    net = ResNet(BackboneConfig("basic", 8, (8, 8, 8, 8), (1, 1, 1, 1), frozen)).train()
    before = net.bn1.running_mean.clone()  # type: ignore[union-attr]
    net(torch.randn(2, 3, 64, 64))
    assert torch.equal(net.bn1.running_mean, before) == frozen  # type: ignore[arg-type]
    assert net.bn1.weight.requires_grad != frozen
    assert net.conv1.weight.requires_grad
