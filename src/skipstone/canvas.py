"""The canvas: what has been written, where the masks are, and where the loop is.

Every request starts at position 0 of its own row of the canvas and is padded on the right, so that
a position means the same in a batch as alone.

Shape letters: B requests, L canvas length, G generation length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from skipstone.rows import Rows, to_device


class Status(IntEnum):
    """What stands at a position of the canvas."""

    PAD = 0
    """Beyond the end of this request; never attended."""
    PROMPT = 1
    """Given by the caller, whatever its id."""
    MASK = 2
    """Still to be decoded."""
    COMMITTED = 3
    """Decoded and final."""
    FILLED = 4
    """Set to EOS by the early stop, never decoded."""


@dataclass(frozen=True)
class Block:
    """One block of the generation region; offsets count from the end of the prompt."""

    index: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of positions in this block."""
        return self.stop - self.start


def blocks(gen_length: int, block_length: int) -> list[Block]:
    """Cut the generation region into blocks; the last one may be shorter."""
    starts = range(0, gen_length, block_length)
    return [Block(i, s, min(s + block_length, gen_length)) for i, s in enumerate(starts)]


@dataclass(frozen=True)
class HostCanvas:
    """The generation region as the host sees it after a step: one device read for everything."""

    ids_BG: np.ndarray
    """int64 [B, G]"""
    status_BG: np.ndarray
    """int64 [B, G], values of ``Status``"""


@dataclass(frozen=True, eq=False)
class Readback:
    """A generation region on its way to the host, while the device may go on."""

    both_2BG: Tensor
    """int64, on the host: ids and status, once they are there."""
    arrived: torch.cuda.Event | None
    """None where there is nothing to wait for."""

    def wait(self) -> HostCanvas:
        """Wait until it is there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        ids_BG, status_BG = self.both_2BG.numpy()
        return HostCanvas(ids_BG=ids_BG, status_BG=status_BG)


@dataclass(eq=False)
class Canvas:
    """Token ids and their status for a batch of requests. The engine is its only writer."""

    ids_BL: Tensor
    """int64 [B, L]"""
    status_BL: Tensor
    """int64 [B, L], values of ``Status``"""
    region_BG: Tensor
    """int64 [B, G]: the absolute position of every offset of the generation region."""
    prompt_lengths: tuple[int, ...]

    @classmethod
    def start(
        cls, prompts: Sequence[Sequence[int]], gen_length: int, mask_id: int, device: torch.device
    ) -> Canvas:
        """Lay out the prompts, each followed by ``gen_length`` masks."""
        lengths = np.array([len(prompt) for prompt in prompts])
        ids = np.full((len(prompts), lengths.max() + gen_length), mask_id, dtype=np.int64)
        offset = np.arange(ids.shape[1])[None] - lengths[:, None]
        status = np.where(offset < 0, Status.PROMPT, Status.MASK)
        status[offset >= gen_length] = Status.PAD
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        region = lengths[:, None] + np.arange(gen_length)[None]
        return cls(
            ids_BL=to_device(ids, device),
            status_BL=to_device(status.astype(np.int64), device),
            region_BG=to_device(region, device),
            prompt_lengths=tuple(int(n) for n in lengths),
        )

    @property
    def batch(self) -> int:
        """B, the number of requests."""
        return self.ids_BL.shape[0]

    @property
    def gen_length(self) -> int:
        """G, the number of new positions of each request."""
        return self.region_BG.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the canvas lives."""
        return self.ids_BL.device

    def length_of(self, request: int) -> int:
        """Number of positions of one request, padding not counted."""
        return self.prompt_lengths[request] + self.gen_length

    def region(self, values_BL: Tensor) -> Tensor:
        """The generation region [B, G] of a tensor [B, L]."""
        return values_BL.gather(1, self.region_BG)

    def masked_BG(self) -> Tensor:
        """Bool [B, G]: offsets that still hold a mask."""
        return self.region(self.status_BL) == Status.MASK

    def commit(self, commit_BG: Tensor, token_BG: Tensor, status: Status) -> None:
        """Write tokens where ``commit_BG`` is set. Changes the canvas in place."""
        for values_BL, new_BG in (
            (self.ids_BL, token_BG),
            (self.status_BL, torch.full_like(token_BG, status)),
        ):
            values_BL.scatter_(
                1, self.region_BG, torch.where(commit_BG, new_BG, self.region(values_BL))
            )

    def place(self, host: HostCanvas) -> None:
        """Overwrite the generation region of every request, ids and status."""
        for values_BL, new_BG in ((self.ids_BL, host.ids_BG), (self.status_BL, host.status_BG)):
            values_BL.scatter_(1, self.region_BG, to_device(new_BG, self.device))

    def read(self) -> Readback:
        """Begin to copy the generation region, as it is now, to the host. One device read."""
        both_2BG = torch.stack([self.region(self.ids_BL), self.region(self.status_BL)])
        if not both_2BG.is_cuda:
            return Readback(both_2BG.cpu(), None)
        host_2BG = torch.empty(both_2BG.shape, dtype=both_2BG.dtype, pin_memory=True)
        host_2BG.copy_(both_2BG, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return Readback(host_2BG, arrived)

    def stop_at(self, eos_id: int) -> None:
        """Fill requests in which EOS is decided and nothing left of it is masked. Changes ids."""
        masked_BG = self.masked_BG()
        ended_BG = (self.region(self.ids_BL) == eos_id) & ~masked_BG
        stopped_B1 = (ended_BG & (masked_BG.cumsum(1) == 0)).any(1, keepdim=True)
        eos_BG = torch.full_like(self.region_BG, eos_id)
        self.commit(masked_BG & stopped_B1, eos_BG, Status.FILLED)


@dataclass(frozen=True, eq=False)
class Moment:
    """Where the loop is, for policies and observers. Read-only."""

    canvas: Canvas
    block: Block
    step: int
    """Step within the block, from 0; step 0 is the refresh of caches that have one."""
    step_budget: int
    """Steps that the fixed schedule plans for this block."""
    forward: int
    """Forwards done before this one, over the whole run."""
    active: tuple[int, ...]
    """Requests that still have masks to fill in this block."""
    committed_BL: Tensor
    """bool [B, L]: positions committed by the step before."""

    def all_rows(self, *, refresh: bool = False) -> Rows:
        """Every position of every active request."""
        canvas = self.canvas
        spans = [(b, 0, canvas.length_of(b)) for b in self.active]
        return Rows.spans(spans, canvas.device, refresh=refresh)

    def rows_from_block(self) -> Rows:
        """The block and everything right of it."""
        canvas = self.canvas
        spans = [
            (b, canvas.prompt_lengths[b] + self.block.start, canvas.length_of(b))
            for b in self.active
        ]
        return Rows.spans(spans, canvas.device)

    def block_rows(self) -> Rows:
        """The block alone."""
        starts = self.canvas.prompt_lengths
        spans = [
            (b, starts[b] + self.block.start, starts[b] + self.block.stop) for b in self.active
        ]
        return Rows.spans(spans, self.canvas.device)


@dataclass(frozen=True)
class Geometry:
    """What a policy needs to know to set up its memory for one run."""

    batch: int
    length: int
    """L, the canvas length."""
    gen_length: int
    num_layers: int
    width: int
    """D, the width of a hidden state."""
    dtype: torch.dtype
    device: torch.device
    seeds: tuple[int, ...]
    """One seed for each request."""
