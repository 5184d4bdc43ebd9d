"""Measures the cells of a plan one by one, and goes on where one does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from skipstone.bench import cells
from skipstone.bench.cells import GenerationCell, RefreshCell, SkipCell, StepCell
from skipstone.bench.peers.base import Checkout
from skipstone.bench.peers.beside import PeerCell, beside
from skipstone.bench.plan import Plan
from skipstone.bench.timing import Rig


@dataclass(frozen=True)
class Unmeasured:
    """A cell that was asked for and could not be measured."""

    cell: str
    reason: str


_NOTHING_TO_REFRESH = "blocks see none after them: what was computed of them stays right"

Cell = StepCell | SkipCell | GenerationCell | RefreshCell | PeerCell | Unmeasured
Task = tuple[str, Callable[[], Iterable[Cell]]]


def measure(
    rig: Rig, plan: Plan, peer: Checkout | None, tell: Callable[[str], None]
) -> Iterator[Cell]:
    """Every cell of the plan, as soon as it is measured.

    Args:
        rig: what is measured.
        plan: the cells.
        peer: whose code is to run beside us.
        tell: told the name of each cell before it is measured.

    Raises:
        ConfigError: the peer's code does not run here.
    """
    for name, work in _tasks(rig, plan, peer):
        tell(name)
        try:
            yield from work()
        except torch.OutOfMemoryError:
            yield Unmeasured(name, "not enough memory on the device")


def _tasks(rig: Rig, plan: Plan, peer: Checkout | None) -> Iterator[Task]:
    if "step" in plan.sections:
        for s in plan.steps:
            yield f"step {s}", lambda s=s: [cells.step(rig, s)]
    if "skip" in plan.sections:
        for s in plan.steps:
            yield f"skip {s}", lambda s=s: cells.skips(rig, s, plan.layers, plan.going)
    if "refresh" in plan.sections:
        for n in plan.refreshes:
            name = f"refresh of {n} positions"
            if rig.model.config.reach.block_size is None:
                yield name, lambda n=n: [cells.refresh(rig, n)]
            else:
                yield name, lambda name=name: [Unmeasured(name, _NOTHING_TO_REFRESH)]
    if "generation" in plan.sections:
        for g in plan.generations:
            yield f"generation {g}", lambda g=g: [cells.generation(rig, g)]
    if "peer" in plan.sections and peer is not None:
        theirs = peer.build(rig.model)
        for g in plan.generations:
            name = f"{peer.name} {g}"
            if reason := theirs.refusal(g):
                yield name, lambda n=name, r=reason: [Unmeasured(n, r)]
            else:
                yield name, lambda g=g: beside(rig, peer.name, theirs, g)
