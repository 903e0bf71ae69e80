"""A public Mask2Former checkpoint becomes the proposal network; its sizes are read off its arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor

from instformer_ros.model.config import BackboneConfig, ProposalConfig, SwinConfig
from instformer_ros.model.mask_decoder import LEVELS
from instformer_ros.model.proposals import ProposalNetwork
from instformer_ros.structures import InstformerError
from instformer_ros.weights.arrays import read_arrays
from instformer_ros.weights.detectron2 import DETECTRON2
from instformer_ros.weights.layout import differences, some_of
from instformer_ros.weights.transformers import TRANSFORMERS

HEADS = 8  # of attention, in every public Mask2Former: the one size that no array tells


def read_proposals(path: Path) -> tuple[ProposalConfig, dict[str, Tensor], str]:
    """Sizes, arrays under our names, and the name of the layout that the file has.

    The class head stays as it is, whatever it was trained on: objectness is 1 - p(no object).

    Raises:
        InstformerError: as :func:`read_arrays`; or it is no Mask2Former; or keys are missing, unexpected or of a wrong
            shape, which are named.
    """
    state = read_arrays(path)
    layout = max((DETECTRON2, TRANSFORMERS), key=lambda each: each.recognised(state))
    if layout.recognised(state) < len(state) / 2:
        raise InstformerError(f"{path} is no Mask2Former of detectron2 or transformers; it holds {some_of(state)}")
    renamed = layout.to_ours(state)
    faults = [f"lacks {some_of(renamed.incomplete)}"] if renamed.incomplete else []
    if not faults:
        try:
            config = sizes(renamed.arrays)
        except KeyError as error:
            faults = [f"lacks {layout.theirs(error.args[0])[0]}"]
    if not faults:
        with torch.device("meta"):
            wanted = ProposalNetwork(config).state_dict()
        faults = differences(renamed.arrays, wanted, renamed.unexpected, layout)
    if faults:
        raise InstformerError(f"{path} ({layout.name}) {'; it '.join(faults)}: is it whole, and a Mask2Former?")
    return config, renamed.arrays, layout.name


def sizes(arrays: Mapping[str, Tensor]) -> ProposalConfig:
    """The network's sizes.

    Raises:
        KeyError: an array that tells one is missing; its name.
    """
    queries, width = arrays["mask_decoder.query_feat"].shape
    weights = arrays["pixel_decoder.layers.0.self_attn.attention_weights.weight"]
    return ProposalConfig(
        backbone=_swin(arrays) if "backbone.patch_embed.proj.weight" in arrays else _resnet(arrays),
        queries=queries,
        width=width,
        heads=HEADS,
        points=weights.shape[0] // (HEADS * LEVELS),
        encoder_layers=_count(arrays, "pixel_decoder.layers"),
        encoder_feedforward=arrays["pixel_decoder.layers.0.linear1.weight"].shape[0],
        decoder_layers=_count(arrays, "mask_decoder.layers"),
        decoder_feedforward=arrays["mask_decoder.layers.0.linear1.weight"].shape[0],
        classes=arrays["mask_decoder.class_embed.weight"].shape[0] - 1,
    )


def _resnet(arrays: Mapping[str, Tensor]) -> BackboneConfig:
    bottleneck = "backbone.layer1.0.conv3.weight" in arrays
    last = "bn3" if bottleneck else "bn2"
    return BackboneConfig(
        block="bottleneck" if bottleneck else "basic",
        stem=arrays["backbone.conv1.weight"].shape[0],
        widths=tuple(arrays[f"backbone.layer{stage}.0.{last}.weight"].shape[0] for stage in (1, 2, 3, 4)),
        depths=tuple(_count(arrays, f"backbone.layer{stage}") for stage in (1, 2, 3, 4)),
        frozen_norm=True,
    )


def _swin(arrays: Mapping[str, Tensor]) -> SwinConfig:
    tables = [
        arrays[f"backbone.layers.{i}.blocks.0.attn.relative_position_bias_table"]
        for i in range(_count(arrays, "backbone.layers"))
    ]
    return SwinConfig(
        width=arrays["backbone.patch_embed.proj.weight"].shape[0],
        depths=tuple(_count(arrays, f"backbone.layers.{i}.blocks") for i in range(len(tables))),
        heads=tuple(table.shape[1] for table in tables),
        window=(isqrt(tables[0].shape[0]) + 1) // 2,
    )


def _count(arrays: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered entries there are below ``prefix``."""
    numbered = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return 1 + max((int(match[1]) for key in arrays if (match := numbered.match(key))), default=-1)
