"""Several processes as one training: torch's own distributed engine, started by `torchrun`.

Every process makes the same model and draws the same batches, and takes its share of each. What the loss is divided by
is summed over all of them, so that the gradient is that of one process on the whole batch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ssd_edge.errors import UsageError
from ssd_edge.models.ssd import SSD
from ssd_edge.torch_device import default_device, torch_device

PATIENCE = timedelta(hours=1)  # that processes wait for each other: the first one scores the whole evaluation set


@dataclass(frozen=True)
class Group:
    """The processes of one training; alone, it is a group of one.

    Attributes:
        rank: this process's number, from 0.
        world: how many there are.
        device: this process's.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, in each of them."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def any(self, value: bool) -> bool:
        """Whether it is true in any process."""
        return value if self.world == 1 else bool(self.sum(torch.tensor(float(value), device=self.device)))

    def gather(self, value: Any) -> list[Any]:
        """One value from each process, in the order of ranks; the list is complete in the first process only."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.gather_object(value, values if self.is_first else None)
        return values

    def broadcast(self, value: Any) -> Any:
        """The first process's value, in each of them."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier()

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the first one's buffers."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def with_common_norms(self, model: SSD) -> SSD:
        """The model with batch norms that take the statistics of the whole batch, which torch has on GPUs only.

        They are other modules: what a model remembers of the old ones, such as what is frozen, is to be said after.
        """
        if self.world == 1 or self.device.type != "cuda":
            return model
        converted: SSD = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as all processes train it together: gradients are averaged over them."""
        if self.world == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device.index] if self.device.type == "cuda" else None)


def say(text: str) -> None:
    """Print a line to standard error, past the progress bar; of several processes only the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        tqdm.write(text, file=sys.stderr)


@contextmanager
def process_group(device: str | None) -> Iterator[Group]:
    """The group that `torchrun` has started this process in, or a group of one.

    Args:
        device: `cpu`, `cuda`, `cuda:1`; None: CUDA where there is one. Under torchrun each process has its own GPU.

    Raises:
        UsageError: the device is not there; or one GPU is named under torchrun.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = torch_device(device or default_device(), purpose="train")
    if world == 1:
        yield Group(0, 1, chosen)
        return
    if ":" in str(chosen):
        raise UsageError(f"--device {chosen} under torchrun: each process takes the GPU of its own number; give cuda")
    if missing := {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} - os.environ.keys():
        raise UsageError(f"WORLD_SIZE is {world} but {', '.join(sorted(missing))} not set; start with torchrun")
    if chosen.type == "cuda":
        local_rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= gpus:
            raise UsageError(f"process {local_rank} of this machine has no GPU, there are {gpus}; start one for each")
        chosen = torch.device("cuda", local_rank)
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Group(dist.get_rank(), world, chosen)
    finally:
        dist.destroy_process_group()
