"""The first decision of two aligned runs that differs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from skipstone.diff.align import Pair
from skipstone.record.candidates import Candidate
from skipstone.record.schema import StepRecord

DivergenceKind = Literal["committed_set", "token", "stop"]


@dataclass(frozen=True)
class Divergence:
    """The first decision that differs."""

    block: int
    step: int
    position: int
    """Absolute position on the canvas; where several differ, the first of them."""
    kind: DivergenceKind
    """Other positions were committed; another token was; or only one run made this step."""
    a: Candidate | None
    """What A knew about this position in this step; None if it had no scores for it."""
    b: Candidate | None
    committed_a: tuple[int, ...]
    """Positions that A committed in this step."""
    committed_b: tuple[int, ...]
    forward_a: int = -1
    """A's forward; -1 if A did not make this step."""
    forward_b: int = -1
    edits: tuple[int, ...] = ()
    """Of what either committed: positions at which a token was committed before."""
    revoked: tuple[int, ...] = ()
    """Of these: positions at which either has a mask again."""

    def __repr__(self) -> str:
        where = f"block {self.block}, step {self.step}, position {self.position}"
        return f"<Divergence at {where}: {self.kind}>"

    def as_json(self, prompt_length: int) -> dict[str, object]:
        """Plain data; positions count from the first new token."""
        return {
            "block": self.block,
            "step": self.step,
            "position": self.position - prompt_length,
            "kind": self.kind,
            "canvas_position": self.position,
            "committed_a": [p - prompt_length for p in self.committed_a],
            "committed_b": [p - prompt_length for p in self.committed_b],
            "edits": [p - prompt_length for p in self.edits],
            "revoked": [p - prompt_length for p in self.revoked],
            "a": None if self.a is None else asdict(self.a),
            "b": None if self.b is None else asdict(self.b),
        }


def first_decision(pairs: Iterable[Pair]) -> Divergence | None:
    """The first pair of steps that decide differently; None if there is none.

    Args:
        pairs: aligned steps in order. Until the first difference both canvases grow alike, so a
            step without a counterpart is where one run went on and the other had stopped.
    """
    for pair in pairs:
        if pair.how == "writes":
            continue
        if pair.a is None or pair.b is None:
            step = pair.steps[0]
            if not step.masks_before and not step.committed:
                # Some loops call the model once more when a block is full: nothing to decide.
                continue
            return _divergence(step, "stop", step.block_start, pair)
        found = _difference(pair.a, pair.b)
        if found is not None:
            return _divergence(pair.a, *found, pair)
    return None


def _difference(a: StepRecord, b: StepRecord) -> tuple[DivergenceKind, int] | None:
    """What two steps decide differently, and where."""
    if a.committed != b.committed:
        return "committed_set", min(set(a.committed) ^ set(b.committed))
    changed = _tokens(a) != _tokens(b)
    if changed.any():
        return "token", a.committed[int(changed.argmax())]
    # The same commits, but only one run stopped at EOS.
    common = min(a.status_after.size, b.status_after.size)
    stopped = a.status_after[:common] != b.status_after[:common]
    return ("stop", a.prompt_length + int(stopped.argmax())) if stopped.any() else None


def _tokens(step: StepRecord) -> np.ndarray:
    """Committed tokens, in order of position."""
    return step.candidates.token[step.candidates.committed]


def _divergence(at: StepRecord, kind: DivergenceKind, position: int, pair: Pair) -> Divergence:
    a, b = pair.a, pair.b
    return Divergence(
        block=at.block,
        step=at.step,
        position=position,
        kind=kind,
        a=None if a is None else a.candidates.at(position),
        b=None if b is None else b.candidates.at(position),
        committed_a=() if a is None else a.committed,
        committed_b=() if b is None else b.committed,
        forward_a=-1 if a is None else a.forward,
        forward_b=-1 if b is None else b.forward,
        edits=tuple(sorted({p for step in pair.steps for p in step.edited})),
        revoked=tuple(sorted({p for step in pair.steps for p in step.revoked})),
    )
