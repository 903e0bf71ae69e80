"""Masks of the instances that are published: from the device to run lengths on the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from instformer_ros import masks
from instformer_ros.model.upload import upload
from instformer_ros.structures import Rle


class KeptMasks:
    """On their way. What needs a GPU is begun at once and not waited for; the rest is done in :meth:`encode`."""

    def __init__(self, logits: Tensor, rows: Sequence[int], height: int, width: int, lean: bool = False) -> None:
        """Takes masks out of a frame's.

        Args:
            logits: (N, h, w) of all proposals, > 0 is foreground.
            rows: those that are kept, K of them.
            height: of the image, in pixels.
            width: likewise.
            lean: for want of memory on a GPU, all is done at once, mask by mask.
        """
        self.device = logits.device
        self._size = width, height  # transposed, as run lengths are
        self._logits = logits[upload(rows, logits.device)].transpose(1, 2)  # a copy: the next pass overwrites them
        self._host: Tensor | None = None
        self._encoded: list[Rle] | None = None
        if self.device.type == "cpu":
            return
        if lean or not rows:
            self._encoded = self._one_by_one()
        else:
            self._host = torch.empty(len(rows), width, height, dtype=torch.bool, pin_memory=True)
            self._host.copy_(self._full(self._logits), non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(self.device))
        del self._logits  # the device's memory

    @torch.inference_mode()
    def encode(self) -> list[Rle]:
        """Their run lengths at the image's size, in the order of the rows. May be called in another thread."""
        if self._encoded is not None:
            return self._encoded
        if self._host is None:
            return self._one_by_one()
        self._copied.synchronize()
        return masks.encode_columns(self._host.numpy())

    def _one_by_one(self) -> list[Rle]:
        """So that on a CPU a mask stays in the processor's cache until it is encoded."""
        parts = self._logits.split(1) if len(self._logits) else ()
        return [rle for part in parts for rle in masks.encode_columns(self._full(part).cpu().numpy())]

    def _full(self, logits: Tensor) -> Tensor:
        return F.interpolate(logits[None].float(), self._size, mode="bilinear", align_corners=False)[0] > 0
