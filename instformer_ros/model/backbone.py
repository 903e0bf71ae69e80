"""The backbones there are. Another one is one more file and one more line here (and its sizes in ``config.py``)."""

from __future__ import annotations

from instformer_ros.model.config import BackboneConfig, SwinConfig
from instformer_ros.model.resnet import ResNet
from instformer_ros.model.swin import Swin


def build_backbone(config: BackboneConfig | SwinConfig) -> ResNet | Swin:
    """A network that takes normalised images (B, 3, H, W) to four maps of stride 4, 8, 16 and 32.

    Its ``channels`` are those of the maps.
    """
    if isinstance(config, SwinConfig):
        return Swin(config)
    return ResNet(config)
