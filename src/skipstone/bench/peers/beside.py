"""We and a peer in turn, in one process, on the same weights and the same schedule."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO

import torch

from skipstone.bench.cells import job_of
from skipstone.bench.peers.base import Peer
from skipstone.bench.plan import Generation
from skipstone.bench.timing import Clock, Job, Rig, Times, clocked, in_turn, release


@dataclass(frozen=True)
class PeerCell:
    """One side at one generation."""

    generation: str
    side: str
    forwards: int
    ms: float
    low_ms: float
    high_ms: float
    again_ms: float
    times_ours: float
    """Its time by ours."""
    again_times_ours: float
    same_tokens: int | None
    """Tokens that equal ours at the same place; None for ourselves and for another cache."""
    new: int
    note: str
    """What of it is not as published, and by which packages it runs; empty for ourselves."""


def beside(rig: Rig, name: str, peer: Peer, wanted: Generation) -> list[PeerCell]:
    """Time ours and every side of the peer's, in turn, and compare the tokens.

    Args:
        rig: what is measured.
        name: of the peer.
        peer: with the weights of the rig's model.
        wanted: a generation that it can decode.
    """
    # Some of them tell how long they took.
    with redirect_stdout(StringIO()):
        return _beside(rig, name, peer, wanted)


def _beside(rig: Rig, name: str, peer: Peer, wanted: Generation) -> list[PeerCell]:
    release()
    forced = job_of(rig.model.config, wanted)
    job = Job(peer.ours(forced.settings), forced.prompts)
    clock, model = Clock(rig.model), rig.model
    ours = torch.tensor(clock.run(job)[0].tokens)
    theirs = {side: peer.decode(side, model, wanted) for side in peer.sides}

    def timed(side: str) -> Callable[[], list[float]]:
        return lambda: [clocked(lambda: peer.decode(side, model, wanted), rig.device)]

    sides = [lambda: [clock.seconds(job)], *map(timed, peer.sides)]
    mine, *others = in_turn(sides, rig.repeats)
    same = int((theirs[peer.sides[0]][0].cpu() == ours).sum())
    rows: list[tuple[str, int, Times, int | None]]
    rows = [("skipstone dual cache", wanted.forwards, mine, None)]
    for (side, (_, forwards)), times in zip(theirs.items(), others, strict=True):
        rows.append((f"{name} {side}", forwards, times, same if side == peer.sides[0] else None))
    return [
        PeerCell(
            generation=str(wanted),
            side=side,
            forwards=forwards,
            ms=times.ms,
            low_ms=times.low_ms,
            high_ms=times.high_ms,
            again_ms=times.again_ms,
            times_ours=times.ms / mine.ms,
            again_times_ours=times.again_ms / mine.again_ms,
            same_tokens=agreed,
            new=wanted.new,
            note="" if times is mine else peer.note,
        )
        for side, forwards, times, agreed in rows
    ]
