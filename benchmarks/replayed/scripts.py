"""Scripts: who writes down what policies answer, and who answers in their place.

Shape letters: B requests, G generation length, N packed rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.replayed.schedule import BlockAnswers, RowShares, StepAnswers
from skipstone.canvas import RequestStep, StepContext
from skipstone.rows import Rows, to_device

_EVERY = 4
"""Of the layers in which rows are chosen, every so many-th is written down: neighbours are alike,
and choose as many."""


class Script(Protocol):
    """Hears what the policies of a run say, and says what is done."""

    def commits(self, said_BG: Tensor, context: StepContext) -> Tensor:
        """What is committed, bool [B, G]."""
        ...

    def rows(self, said: Rows, context: StepContext) -> Rows:
        """The rows that enter the first layer."""
        ...

    def named(self, layer: int, said: Rows | None, came: Rows, context: StepContext) -> Rows | None:
        """The rows that go on through a layer; None: those that came."""
        ...

    def chosen(
        self, layer: int, said: Rows | None, came: Rows, context: StepContext
    ) -> Rows | None:
        """The rows that a layer, or its MLP, computes of those that came; None: all."""
        ...

    def kept(self, layer: int, said_N: Tensor, rows: Rows, context: StepContext) -> Tensor:
        """The rows that go on after a layer, bool [N]."""
        ...


class Notes:
    """Writes down what is said of one request at a time, and changes nothing."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._steps = defaultdict[tuple[int, int], StepAnswers](StepAnswers)
        self._taken = set[tuple[int, int]]()

    def take(self) -> dict[int, BlockAnswers]:
        """The steps of each block by its index; they are forgotten."""
        found = defaultdict[int, list[StepAnswers]](list)
        # A cache may be asked about a step that is never taken.
        for block, step in sorted(self._taken):
            found[block].append(self._steps[block, step])
        self._steps.clear()
        self._taken.clear()
        return {index: tuple(steps) for index, steps in found.items()}

    def commits(self, said_BG: Tensor, context: StepContext) -> Tensor:
        """As it is said."""
        at = context.only
        offsets = said_BG[at.slot, at.block.start : at.block.stop].nonzero()[:, 0]
        self._step(at).commits = tuple(offsets.tolist())
        self._taken.add((at.block.index, at.step))
        return said_BG

    def rows(self, said: Rows, context: StepContext) -> Rows:
        """As it is said."""
        at, step = context.only, self._step(context.only)
        step.rows, step.refresh = _of_all(said, at, context), bool(said.refreshed)
        return said

    def named(self, layer: int, said: Rows | None, came: Rows, context: StepContext) -> Rows | None:
        """As it is said."""
        if said is not None:
            at = context.only
            self._step(at).named[layer] = _of_all(said, at, context)
        return said

    def chosen(
        self, layer: int, said: Rows | None, came: Rows, context: StepContext
    ) -> Rows | None:
        """As it is said."""
        if said is not None and layer % _EVERY == 0:
            meant_N = np.isin(came.position, said.position)
            shares = RowShares.of(came.position, meant_N, context.only)
            self._step(context.only).chosen[layer] = shares
        return said

    def kept(self, layer: int, said_N: Tensor, rows: Rows, context: StepContext) -> Tensor:
        """As it is said."""
        shares = RowShares.of(rows.position, said_N.cpu().numpy(), context.only)
        self._step(context.only).kept[layer] = shares
        return said_N

    def _step(self, at: RequestStep) -> StepAnswers:
        return self._steps[at.block.index, at.step]


class Prompter:
    """Says of each request what its answer holds, whatever is said."""

    def __init__(
        self,
        answers: Sequence[Sequence[BlockAnswers]],
        *,
        block_length: int,
        depths: tuple[int, int],
        device: torch.device,
    ) -> None:
        """Take what is answered, for good.

        Args:
            answers: of each request, by its number in the call; its blocks.
            block_length: of all of them.
            depths: layers of the model that was listened to, and of the one that decodes.
            device: where it decodes.
        """
        self._answers, self._depths = answers, depths
        self._commit_SKTG = _table(answers, block_length).to(device)

    def commits(self, said_BG: Tensor, context: StepContext) -> Tensor:
        """What was committed in this step; where the answer has no such step, what is masked."""
        masked_BG, last = context.canvas.masked_BG(), self._commit_SKTG.shape[2] - 1
        told = list(torch.zeros_like(said_BG))
        for at in context.requests:
            mine_G = self._commit_SKTG[at.sample, at.block.index, min(at.step, last)]
            revises = at.revises and self._of(at) is not None
            # A step that was launched ahead of the end of its block may find no masks in it.
            told[at.slot] = mine_G if revises else mine_G & masked_BG[at.slot]
        return torch.stack(told)

    def rows(self, said: Rows, context: StepContext) -> Rows:
        """The rows of the answer; of a request that has none there, those that are said."""
        positions, refreshed = dict[int, np.ndarray](), list[int]()
        for at in context.requests:
            step = self._of(at)
            positions[at.slot] = said.position[said.request == at.slot]
            refresh = at.slot in said.refreshed
            if step is not None and step.rows is not None and at.forward:
                everything = np.arange(context.length_at(at))
                refresh = step.refresh
                positions[at.slot] = everything[step.rows.among(everything, at)]
            if refresh:
                refreshed.append(at.slot)
        return context.rows_at(positions, refresh=refreshed)

    def named(self, layer: int, said: Rows | None, came: Rows, context: StepContext) -> Rows | None:
        """The rows of the answer; those that came where it names none before this layer."""
        positions, any_named = dict[int, np.ndarray](), False
        for at in context.requests:
            step = self._of(at)
            shares = None if step is None else self._before(step.named, layer)
            positions[at.slot] = came.position[came.request == at.slot]
            if shares is not None:
                everything, any_named = np.arange(context.length_at(at)), True
                positions[at.slot] = everything[shares.among(everything, at)]
        return context.rows_at(positions) if any_named else None

    def chosen(
        self, layer: int, said: Rows | None, came: Rows, context: StepContext
    ) -> Rows | None:
        """The rows of the answer, of those that came."""
        meant_N = self._meant(layer, came, context, "chosen")
        return came.take(np.flatnonzero(meant_N))

    def kept(self, layer: int, said_N: Tensor, rows: Rows, context: StepContext) -> Tensor:
        """The rows of the answer, and those that score what it commits in this step."""
        return to_device(self._meant(layer, rows, context, "kept"), said_N.device)

    def _meant(self, layer: int, rows: Rows, context: StepContext, what: str) -> np.ndarray:
        """Which rows are meant in a layer; all of a request that has no answer there: bool [N]."""
        meant_N = np.ones(rows.num_rows, dtype=bool)
        for at in context.requests:
            step = self._of(at)
            shares = None if step is None else self._nearest(getattr(step, what), layer)
            if step is None or shares is None:
                continue
            mine_N = rows.request == at.slot
            # An old score was committed there as the best of all; here it would not be.
            scoring = at.reach.row_of(at.start + np.array(step.commits, np.int64)) - at.start
            shares = shares.with_block(frozenset(scoring.tolist()))
            meant_N[mine_N] = shares.among(rows.position[mine_N], at)
        return meant_N

    def _of(self, at: RequestStep) -> StepAnswers | None:
        """What a request answered in its step; None: it has none such."""
        block = self._answers[at.sample][at.block.index]
        return block[at.step] if at.step < len(block) else None

    def _nearest(self, layers: Mapping[int, RowShares], layer: int) -> RowShares | None:
        """What was said in the layer that is as deep as possible as this one."""
        there, here = self._depths
        if not layers:
            return None
        return layers[min(layers, key=lambda other: abs(other / there - layer / here))]

    def _before(self, layers: Mapping[int, RowShares], layer: int) -> RowShares | None:
        """What was said before a layer, if this is the one that is as deep here."""
        there, here = self._depths
        for other, shares in layers.items():
            if layer == max(2, round(other * here / there)):
                return shares
        return None


def _of_all(rows: Rows, at: RequestStep, context: StepContext) -> RowShares:
    everything = np.arange(context.length_at(at))
    return RowShares.of(everything, np.isin(everything, rows.position), at)


def _table(answers: Sequence[Sequence[BlockAnswers]], block_length: int) -> Tensor:
    """What is committed: bool [requests, blocks, steps, G]; in the last step, all of the block."""
    blocks = len(answers[0])
    steps = 1 + max(len(block) for answer in answers for block in answer)
    table = np.zeros((len(answers), blocks, steps, blocks * block_length), dtype=bool)
    for request, answer in enumerate(answers):
        for index, block in enumerate(answer):
            start = index * block_length
            table[request, index, len(block) :, start : start + block_length] = True
            for number, step in enumerate(block):
                table[request, index, number, start + np.array(step.commits, np.int64)] = True
    return torch.from_numpy(table)
