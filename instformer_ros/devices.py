"""Where a model runs."""

from __future__ import annotations

import torch

from instformer_ros.structures import InstformerError


def find_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` as a device that exists.

    Raises:
        InstformerError: it does not.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InstformerError(f"device '{name}' is unknown; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InstformerError(f"device '{name}' is not supported; use auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InstformerError(f"device '{name}' does not exist, this machine has {count} CUDA devices; use auto or cpu")
    return device
