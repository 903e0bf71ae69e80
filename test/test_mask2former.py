"""Proposals against the Mask2Former of ``transformers``: the same random weights give the same answers."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from instformer_ros.model.config import BackboneConfig, ProposalConfig, SwinConfig
from instformer_ros.model.proposals import ProposalNetwork, as_proposals
from instformer_ros.weights.transformers import TRANSFORMERS

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -r requirements.txt")

EXACT = 1e-8  # float64
KINDS = pytest.mark.parametrize("backbone", [BackboneConfig(frozen_norm=True), SwinConfig()], ids=["r50", "swin-t"])


def reference(net: ProposalNetwork) -> Any:
    """Their network with our weights, loaded the way that they load a published file, in float64."""
    stages = [f"stage{i}" for i in (1, 2, 3, 4)]
    if isinstance(net.config.backbone, SwinConfig):
        backbone = transformers.SwinConfig(out_features=stages, attn_implementation="sdpa")  # else a softmax in float32
    else:
        backbone = transformers.ResNetConfig(out_features=stages)
    config = transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=net.config.classes)
    theirs, report = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(
        None,
        config=config,
        state_dict=TRANSFORMERS.from_ours(net.state_dict()),
        dtype=torch.float64,
        output_loading_info=True,
    )
    assert not report["unexpected_keys"]
    assert {key for key in report["missing_keys"] if not re.fullmatch(TRANSFORMERS.ignored, key)} == set()
    return theirs.eval()


@torch.no_grad()
def network(backbone: BackboneConfig | SwinConfig, seed: int = 0) -> ProposalNetwork:
    """Ours, in float64, with every weight and statistic moved away from where it starts."""
    torch.manual_seed(seed)
    net = ProposalNetwork(ProposalConfig(backbone, classes=80)).double().eval()
    for name, parameter in net.named_parameters():
        if parameter.ndim == 1 or name.endswith(("bias_table", "sampling_offsets.weight", "attention_weights.weight")):
            parameter += 0.1 * torch.randn_like(parameter)
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.1 * torch.randn_like(buffer)
        elif name.endswith("running_var"):
            buffer *= 0.5 + torch.rand_like(buffer)
    return net


def gap(first: Tensor, second: Tensor) -> float:
    assert first.shape == second.shape
    return float((first - second).abs().max())


@torch.inference_mode()
@KINDS
def test_the_same_weights_give_the_same_answers(backbone: BackboneConfig | SwinConfig) -> None:
    net = network(backbone)
    theirs = reference(net)
    images = 255 * torch.rand(2, 3, 96, 160, dtype=torch.float64)
    wanted = theirs((images - net.pixel_mean) / net.pixel_std, output_hidden_states=True)
    output = net.decode(images)[-1]
    assert output.mask_logits.std() > 0.1
    assert 0.01 < (output.mask_logits > 0).double().mean() < 0.99
    assert gap(output.mask_logits, wanted.masks_queries_logits) < EXACT
    assert gap(output.class_logits, wanted.class_queries_logits) < EXACT
    assert gap(as_proposals(output).objectness, 1 - wanted.class_queries_logits.softmax(-1)[..., -1]) < EXACT
    queries = wanted.transformer_decoder_last_hidden_state
    assert gap(output.queries, theirs.model.transformer_module.decoder.layernorm(queries)) < EXACT
