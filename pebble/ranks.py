"""Training on several GPUs at once: ``torchrun --nproc-per-node 4 -m pebble.train --out DIR``.

Every rank has a model of its own and draws its own samples and masks; the gradients are averaged
after each backward pass, so the weights stay the same on all ranks. Alone, nothing is exchanged.
"""

import os
from typing import NamedTuple, Self

import torch
from torch import Tensor, distributed, nn


class Ranks(NamedTuple):
    """Which of how many processes this one is."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> Self:
        """Meet the other processes that torchrun started, if it did."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            distributed.init_process_group("cpu:gloo,cuda:nccl")
        else:
            distributed.init_process_group("gloo")
        return cls(distributed.get_rank(), size)

    @property
    def leads(self) -> bool:
        """Whether this process writes the log and the files."""
        return self.rank == 0

    def average_gradients(self, model: nn.Module) -> None:
        """Give every rank the mean of all gradients."""
        if self.size == 1:
            return
        gradients = [w.grad for w in model.parameters() if w.grad is not None]
        flat_G = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat_G)
        flat_G /= self.size
        parts = flat_G.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def agree(self, value: int) -> int:
        """Take over the value of the first rank, such as a decision by its clock."""
        if self.size == 1:
            return value
        told: Tensor = torch.tensor(value)
        distributed.broadcast(told, src=0)
        return int(told)

    def part(self) -> None:
        """Leave in good order."""
        if self.size > 1:
            distributed.destroy_process_group()
