"""Measures the cells of a plan one by one, and goes on where one does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from skipstone.bench import cells, peer
from skipstone.bench.cells import GenerationCell, RefreshCell, SkipCell, StepCell
from skipstone.bench.peer import PeerCell
from skipstone.bench.plan import Plan
from skipstone.bench.timing import Rig


@dataclass(frozen=True)
class Unmeasured:
    """A cell that was asked for and could not be measured."""

    cell: str
    reason: str


Cell = StepCell | SkipCell | GenerationCell | RefreshCell | PeerCell | Unmeasured
Task = tuple[str, Callable[[], Iterable[Cell]]]


def measure(
    rig: Rig, plan: Plan, peer_folder: Path | None, tell: Callable[[str], None]
) -> Iterator[Cell]:
    """Every cell of the plan, as soon as it is measured.

    Args:
        rig: what is measured.
        plan: the cells.
        peer_folder: the peer's code, if it is to run beside us.
        tell: told the name of each cell before it is measured.

    Raises:
        ConfigError: the peer's code does not run here.
    """
    for name, work in _tasks(rig, plan, peer_folder):
        tell(name)
        try:
            yield from work()
        except torch.OutOfMemoryError:
            yield Unmeasured(name, "not enough memory on the device")


def _tasks(rig: Rig, plan: Plan, peer_folder: Path | None) -> Iterator[Task]:
    if "step" in plan.sections:
        for s in plan.steps:
            yield f"step {s}", lambda s=s: [cells.step(rig, s)]
    if "skip" in plan.sections:
        for s in plan.steps:
            yield f"skip {s}", lambda s=s: cells.skips(rig, s, plan.layers, plan.going)
    if "refresh" in plan.sections:
        for n in plan.refreshes:
            yield f"refresh of {n} positions", lambda n=n: [cells.refresh(rig, n)]
    if "generation" in plan.sections:
        for g in plan.generations:
            yield f"generation {g}", lambda g=g: [cells.generation(rig, g)]
    if "peer" in plan.sections and peer_folder is not None:
        theirs = peer.build(peer_folder, rig.model)
        for g in plan.generations:
            if reason := peer.refusal(g):
                yield f"fast-dllm {g}", lambda g=g, r=reason: [Unmeasured(f"fast-dllm {g}", r)]
            else:
                yield f"fast-dllm {g}", lambda g=g: peer.beside(rig, theirs, g)
