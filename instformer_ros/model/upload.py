"""Small things from the host to the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(values: Sequence[int] | NDArray[Any], device: torch.device) -> Tensor:
    """Numbers to the device: integers as int64, an array as it is.

    A GPU fetches them from pinned memory by itself. From any other the host would wait until all before that is done.
    """
    made = torch.from_numpy(values) if isinstance(values, np.ndarray) else torch.tensor(values, dtype=torch.int64)
    if device.type == "cuda":
        made = made.pin_memory()
    return made.to(device, non_blocking=True)
