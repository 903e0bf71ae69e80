"""From a camera's picture to the network's input."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instformer_ros.model.config import ModelConfig
from instformer_ros.model.guidance import MASK_STRIDE
from instformer_ros.pixels import LARGEST_SIDE, MOST_PIXELS
from instformer_ros.structures import InstformerError

Image = NDArray[np.uint8]  # (H, W, 3) RGB


def check_image(camera: str, image: Image) -> None:
    """Raises InstformerError for what is no RGB uint8 (H, W, 3) picture of at most 16384 a side, 67 million in all."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        form = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InstformerError(f"image of camera '{camera}' is {form}; give RGB uint8 (H, W, 3)")
    height, width = image.shape[:2]
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE and height * width <= MOST_PIXELS):
        most = f"1 to {LARGEST_SIDE} a side and {MOST_PIXELS} in all"
        raise InstformerError(f"image of camera '{camera}' has {width}x{height} pixels; use {most}")


def network_size(height: int, width: int, config: ModelConfig) -> tuple[int, int]:
    """Size at which the network sees a picture: short side as configured unless the long one grows too long.

    Rounded to multiples of the masks' stride, so that mask pixels tile the picture.
    """
    scale = min(config.short_side / min(height, width), config.long_side / max(height, width))
    return tuple(max(1, round(side * scale / MASK_STRIDE)) * MASK_STRIDE for side in (height, width))  # type: ignore[return-value]


def network_input(images: Sequence[Image], config: ModelConfig, device: torch.device) -> Tensor:
    """Pictures of one network size to (B, 3, h, w) float, RGB, 0-255, on the device.

    A GPU fetches the bytes from pinned memory by itself and makes floats of them there.
    """
    height, width = network_size(images[0].shape[0], images[0].shape[1], config)
    stack = torch.empty(len(images), height, width, 3, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for image, small in zip(images, stack.numpy(), strict=True):
        method = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
        cv2.resize(image, (width, height), dst=small, interpolation=method)
    return stack.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
