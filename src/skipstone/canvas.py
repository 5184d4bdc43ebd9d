"""The canvas: what has been written, where the masks are, and where the loop is.

Every request starts at position 0 of its own row of the canvas and is padded on the right, so that
a position means the same in a batch as alone.

Shape letters: B requests, L canvas length, G generation length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from skipstone.host_canvas import HostCanvas, Status
from skipstone.reach import FULL, Reach
from skipstone.request_step import RequestStep
from skipstone.rows import Rows, to_device, to_host

MOST_STOP_IDS = 8
"""K: so many ids may end a request, EOS among them."""


@dataclass(eq=False)
class Canvas:
    """Token ids and their status for a batch of requests. The engine is its only writer."""

    ids_BL: Tensor
    """int64 [B, L]"""
    status_BL: Tensor
    """int64 [B, L], values of ``Status``"""
    region_BG: Tensor
    """int64 [B, G]: the absolute position of every offset of the generation region; they ascend by
    one. A request may have fewer than G new positions; the others are ``Status.PAD``."""
    stop_BK: Tensor
    """int64 [B, K]: ids that end each request once nothing left of one is masked; -1 is none."""
    prompt_lengths: list[int]
    gen_lengths: list[int]
    """New positions of each request, at most G."""

    @classmethod
    def start(
        cls, prompts: Sequence[Sequence[int]], gen_length: int, mask_id: int, device: torch.device
    ) -> Canvas:
        """Lay out the prompts, each followed by ``gen_length`` masks.

        Args:
            prompts: one for each place of the batch.
            gen_length: G.
            mask_id: what stands at a mask.
            device: where the canvas lives.
        """
        length = max(map(len, prompts)) + gen_length
        canvas = cls.empty(len(prompts), length, gen_length, mask_id, device)
        for slot, prompt in enumerate(prompts):
            canvas.admit(slot, prompt, [mask_id] * gen_length, mask_id)
        return canvas

    @classmethod
    def empty(
        cls, slots: int, length: int, gen_length: int, mask_id: int, device: torch.device
    ) -> Canvas:
        """Slots without requests: nothing in them but padding.

        Args:
            slots: B.
            length: L, at least the longest prompt and G.
            gen_length: G, the most new positions of a request.
            mask_id: what stands where nothing does.
            device: where the canvas lives.
        """
        return cls(
            ids_BL=torch.full((slots, length), mask_id, dtype=torch.int64, device=device),
            status_BL=torch.full((slots, length), Status.PAD, dtype=torch.int64, device=device),
            region_BG=torch.arange(gen_length, device=device).repeat(slots, 1),
            stop_BK=torch.full((slots, MOST_STOP_IDS), -1, dtype=torch.int64, device=device),
            prompt_lengths=[0] * slots,
            gen_lengths=[0] * slots,
        )

    def admit(
        self,
        slot: int,
        prompt: Sequence[int],
        region: Sequence[int],
        mask_id: int,
        stop_ids: Sequence[int] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Put a request into a slot, whoever had it before.

        Args:
            slot: which.
            prompt: ids left of all that is decoded.
            region: ids from there on; every mask is decoded, what is none stays.
            mask_id: what stands at a mask.
            stop_ids: where one of them is decided, and nothing left of it is masked, the rest is
                not decoded.

        Returns:
            Ids and status of its generation region, int64 [G] each, as they lie on the host.
        """
        length, gen_length = self.ids_BL.shape[1], self.gen_length
        ids = np.full((1, length + gen_length + MOST_STOP_IDS), mask_id, dtype=np.int64)
        status = np.full((1, length), Status.PAD, dtype=np.int64)
        start, stop = len(prompt), len(prompt) + len(region)
        ids[0, :start], ids[0, start:stop] = prompt, region
        status[0, :start], status[0, start:stop] = Status.PROMPT, Status.PROMPT
        status[0, start:stop][np.array(region) == mask_id] = Status.MASK
        ids[0, length : length + gen_length] = start + np.arange(gen_length)
        ids[0, length + gen_length :] = [*stop_ids, *[-1] * (MOST_STOP_IDS - len(stop_ids))]
        packed = to_device(np.concatenate([ids, status], axis=1)[0], self.device)
        tables = (self.ids_BL, self.region_BG, self.stop_BK, self.status_BL)
        for table, row in zip(tables, packed.split([t.shape[1] for t in tables]), strict=True):
            table[slot].copy_(row)
        self.prompt_lengths[slot], self.gen_lengths[slot] = start, len(region)
        laid = slice(start, start + gen_length)
        return ids[0, laid], status[0, laid]

    @property
    def batch(self) -> int:
        """B, the number of requests."""
        return self.ids_BL.shape[0]

    @property
    def gen_length(self) -> int:
        """G, the most new positions of a request."""
        return self.region_BG.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the canvas lives."""
        return self.ids_BL.device

    def length_of(self, request: int) -> int:
        """Number of positions of one request, padding not counted."""
        return self.prompt_lengths[request] + self.gen_lengths[request]

    def region(self, values_BL: Tensor) -> Tensor:
        """The generation region [B, G] of a tensor [B, L]."""
        return values_BL.gather(1, self.region_BG)

    def written_BG(self) -> Tensor:
        """int64 [B, G]: the ids that stand in the generation region."""
        return self.region(self.ids_BL)

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

    def put(self, host: HostCanvas) -> None:
        """Overwrite the generation region of every request, ids and status."""
        for values_BL, new_BG in ((self.ids_BL, host.ids_BG), (self.status_BL, host.status_BG)):
            values_BL.scatter_(1, self.region_BG, to_device(new_BG, self.device))

    def on_host(self) -> HostCanvas:
        """The generation region as it is now; waits for the device."""
        return HostCanvas(*to_host(self.generated_2BG()).wait())

    def generated_2BG(self) -> Tensor:
        """Ids and status of the generation region, int64: a copy."""
        return torch.stack([self.region(self.ids_BL), self.region(self.status_BL)])


@dataclass(frozen=True, eq=False)
class StepContext:
    """Where every request is, for policies and observers. Read-only.

    Requests are at their own block and step. What policies compute with is on the device, one value
    for each request; of requests that do not take part it says nothing.
    """

    canvas: Canvas
    requests: tuple[RequestStep, ...]
    """Requests that take part in this step, ascending."""
    committed_BL: Tensor
    """bool [B, L]: positions that requests committed in their last step."""
    host: HostCanvas
    """The generation region before this step; older where steps are launched ahead."""
    confidence_BG: Tensor | None = None
    """float64 [B, G]: the last confidence of each offset, -inf if none; None: nobody scores."""

    @property
    def active(self) -> tuple[int, ...]:
        """Requests that take part."""
        return tuple(at.slot for at in self.requests)

    @property
    def only(self) -> RequestStep:
        """The step of the only request; for those who know that there is one."""
        (only,) = self.requests
        return only

    def of(self, request: int) -> RequestStep:
        """The step of a request that takes part."""
        return next(at for at in self.requests if at.slot == request)

    @cached_property
    def _numbers_7B1(self) -> Tensor:
        # In forward -2 nothing was scored: who takes no part has no fresh scores, and does not end.
        nobody = np.array([[0], [0], [0], [1], [-2], [self.canvas.gen_length + 1], [0]])
        numbers_7B = np.tile(nobody, (1, self.canvas.batch))
        for p in self.requests:
            # What may be replaced is not final before its block is.
            block, ends = p.block, p.block.stop if p.whole_blocks or p.revises else 0
            counts, end = (p.step, p.steps_left, p.forward), self.length_at(p) - p.prompt_length
            numbers_7B[:, p.slot] = block.start, block.stop, *counts, ends, end
        return to_device(numbers_7B[:, :, None], self.canvas.device)

    @property
    def step_B1(self) -> Tensor:
        """int64 [B, 1]: step within the block."""
        return self._numbers_7B1[2]

    @property
    def steps_left_B1(self) -> Tensor:
        """int64 [B, 1]: steps of the block's budget that are left, this one included."""
        return self._numbers_7B1[3]

    @property
    def forward_B1(self) -> Tensor:
        """int64 [B, 1]: forwards that each request took part in before; -2 if it takes no part."""
        return self._numbers_7B1[4]

    @property
    def block_start_B1(self) -> Tensor:
        """int64 [B, 1]: offset at which the block starts."""
        return self._numbers_7B1[0]

    @property
    def block_stop_B1(self) -> Tensor:
        """int64 [B, 1]: offset at which the block ends."""
        return self._numbers_7B1[1]

    @property
    def ends_from_B1(self) -> Tensor:
        """int64 [B, 1]: a stop id ends a request only where all left of this offset is decided."""
        return self._numbers_7B1[5]

    @property
    def masked_share_B1(self) -> Tensor:
        """float64 [B, 1]: of masks among the block and what there is right of it in this step."""
        start_B1, end_B1 = self._numbers_7B1[0], self._numbers_7B1[6]
        offset_G = torch.arange(self.canvas.gen_length, device=self.canvas.device)
        open_BG = self.canvas.masked_BG() & (offset_G >= start_B1) & (offset_G < end_B1)
        return open_BG.sum(-1, keepdim=True).double() / (end_B1 - start_B1).clamp(min=1).double()

    def ends_from_unless(self, changed_BG: Tensor) -> Tensor:
        """As ``ends_from_B1``; no request ends that goes on in its block since a token changed.

        Args:
            changed_BG: bool, what this step writes.
        """
        goes_on_B1 = self.each(1, lambda at: (not at.may_end,)) > 0
        goes_on_B1 &= changed_BG.any(-1, keepdim=True)
        return self.ends_from_B1.masked_fill(goes_on_B1, self.canvas.gen_length + 1)

    @cached_property
    def block_BG(self) -> Tensor:
        """Bool [B, G]: offsets of the block that each request is in; none if it takes no part."""
        offset_G = torch.arange(self.canvas.gen_length, device=self.canvas.device)
        return (offset_G >= self._numbers_7B1[0]) & (offset_G < self._numbers_7B1[1])

    def each(self, width: int, of: Callable[[RequestStep], Sequence[int] | np.ndarray]) -> Tensor:
        """What the host knows of each request, on the device: int64 [B, width].

        Args:
            width: of the tensor.
            of: the values of a request that takes part, at most ``width``; all others are 0.
        """
        values_BX = np.zeros((self.canvas.batch, width), np.int64)
        for at in self.requests:
            found = of(at)
            values_BX[at.slot, : len(found)] = found
        return to_device(values_BX, self.canvas.device)

    def split(self, wanted: Callable[[RequestStep], bool]) -> tuple[StepContext, StepContext]:
        """The requests that are wanted, and the others."""
        sides: tuple[list[RequestStep], list[RequestStep]] = ([], [])
        for at in self.requests:
            sides[not wanted(at)].append(at)
        chosen, others = (replace(self, requests=tuple(side)) for side in sides)
        return chosen, others

    def later(self) -> StepContext:
        """The same requests one step on, if they stay in their blocks."""
        later = [replace(at, step=at.step + 1, forward=at.forward + 1) for at in self.requests]
        return replace(self, requests=tuple(later))

    def all_rows(self, *, refresh: bool = False) -> Rows:
        """Every position that the block of each active request sees."""
        return self._rows(lambda at: (0, self._end(at)), refresh=refresh)

    def changed_rows(self) -> Rows:
        """A refresh: all rows that are seen; if block-causal, those of this block and the last."""
        return self._rows(lambda at: (at.reach.first(at.settled), self._end(at)), refresh=True)

    def rows_from_block(self) -> Rows:
        """The block, with the rows that score it, and everything right of it that it sees."""
        return self._rows(lambda at: (self._span(at)[0], self._end(at)))

    def block_rows(self) -> Rows:
        """The block alone, with the rows that score it."""
        return self._rows(self._span)

    def rows_near_block(self, before: int, after: int) -> Rows:
        """The block with the rows that score it, and so many positions left and right of it.

        Where attention is causal over blocks, these are those whose K/V may change and are seen.
        """

        def near(at: RequestStep) -> tuple[int, int]:
            first, end = self._span(at)
            left = max(at.reach.first(at.settled), at.start - before)
            return min(first, left), max(end, min(at.stop + after, self._end(at)))

        return self._rows(near)

    def length_at(self, at: RequestStep) -> int:
        """One past the last position that there is of a request, in its step."""
        length = self.canvas.length_of(at.slot)
        if at.suffix is not None:
            length = min(length, at.stop + at.suffix)
        return length if at.sees is None else min(length, at.prompt_length + at.sees)

    def _end(self, at: RequestStep) -> int:
        return at.reach.end(at.stop - 1, self.length_at(at))

    def _span(self, at: RequestStep) -> tuple[int, int]:
        """The block's rows, and those before it that score what may still be a mask of it."""
        undecided = at.start + (at.opens_alone and at.step > 0)
        length = self.length_at(at)
        first, end = at.reach.span(undecided, at.stop, length)
        return min(at.start, first), min(end, length)

    def rows_at(self, positions: Mapping[int, np.ndarray], *, refresh: Sequence[int] = ()) -> Rows:
        """Ascending positions by slot; ``refresh`` are slots whose requests are refreshed."""
        having = [at for at in self.requests if positions[at.slot].size]
        return Rows.at(
            {at.slot: positions[at.slot] for at in having},
            self.canvas.device,
            lengths=[self.length_at(at) for at in having],
            bases=[at.base for at in having],
            reaches=[at.reach for at in having],
            refreshed=tuple(at.slot for at in having if at.slot in refresh),
        )

    def _rows(
        self, span: Callable[[RequestStep], tuple[int, int]], *, refresh: bool = False
    ) -> Rows:
        """A span of every active request."""
        return Rows.spans(
            [(p.slot, *span(p)) for p in self.requests],
            self.canvas.device,
            lengths=[self.length_at(p) for p in self.requests],
            bases=[p.base for p in self.requests],
            reaches=[p.reach for p in self.requests],
            refresh=refresh,
        )


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
    reach: Reach = FULL
    """How far rows of the model see."""
