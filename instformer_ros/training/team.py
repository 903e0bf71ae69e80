"""The processes of one training, as ``torchrun`` starts them; one process alone is a team of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from instformer_ros.devices import find_device
from instformer_ros.structures import InstformerError

_PATIENCE = timedelta(hours=2)  # the others wait so long while the first process evaluates


@dataclass(frozen=True)
class Team:
    """Which of how many processes this is, and the device it works on."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Is this the process that writes files and talks?"""
        return self.rank == 0

    def wrap(self, stage: nn.Module) -> nn.Module:
        """The stage with its gradients averaged over the team."""
        if self.size == 1:
            return stage
        if self.device.type == "cuda":  # elsewhere each process keeps batch statistics of its own
            stage = nn.SyncBatchNorm.convert_sync_batchnorm(stage)
        return DistributedDataParallel(stage, gradient_as_bucket_view=True)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of each process's ``values`` over the team."""
        if self.size == 1:
            return values
        values = values.to(self.device)
        distributed.all_reduce(values)
        return values / self.size

    def wait(self) -> None:
        """Until all have come this far."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def join(device: str) -> Iterator[Team]:
    """The team that this process was started in: all of them with ``torchrun``, else itself alone.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. A team on GPUs takes one GPU a process (nccl); on a CPU it
            talks through gloo.

    Raises:
        InstformerError: no such device, fewer GPUs than processes, or one GPU named for several processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    found = find_device(device)
    if size == 1:
        yield Team(found)
        return
    if found.type == "cuda":
        if ":" in device:
            raise InstformerError(f"device '{device}' for {size} processes: each needs a GPU of its own; use cuda")
        found = find_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(found)
    distributed.init_process_group("nccl" if found.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Team(found, distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
