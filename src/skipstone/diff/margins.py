"""How close a decision was, in units of the noise: could noise alone have turned it?

Shape letters: C candidates.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from skipstone.diff.divergence import Divergence
from skipstone.diff.floor import Floor, logit_gap
from skipstone.record.candidates import Candidate, Candidates
from skipstone.record.schema import StepRecord


@dataclass(frozen=True)
class Margins:
    """How far one run was from deciding otherwise; each in units of the noise floor.

    At 1 or less, noise can explain that the other run decided otherwise.
    """

    bound: float | None
    """Confidence to the bound of the unmask rule; None if the rule has none."""
    rank: float | None
    """Between the confidence of the position and that of the nearest one on the other side of the
    line between committed and held back; None if there is none."""
    token: float
    """Between the logits of the token and of its runner-up."""

    def as_json(self) -> dict[str, object]:
        """Plain data; None stands for what is not finite."""
        return {n: v if v is None else finite(v) for n, v in asdict(self).items()}


@dataclass(frozen=True)
class Closeness:
    """How close the first decision was on both sides."""

    noise: float
    """One unit: what noise does to the confidence of this candidate."""
    moved: float | None
    """How far apart the two confidences are, in units; None unless both have the position."""
    a: Margins | None
    b: Margins | None
    decisive: float | None
    """The margin of A that had to be overcome; None if the decision does not rest on scores."""

    @property
    def within_noise(self) -> bool:
        """Whether noise alone can explain the difference."""
        return self.decisive is not None and self.decisive <= 1

    def as_json(self) -> dict[str, object]:
        """Plain data; None stands for what is not finite."""
        return {
            "noise": self.noise,
            "moved": self.moved if self.moved is None else finite(self.moved),
            "a": None if self.a is None else self.a.as_json(),
            "b": None if self.b is None else self.b.as_json(),
            "decisive": self.decisive if self.decisive is None else finite(self.decisive),
            "within_noise": self.within_noise,
        }


def closeness(
    first: Divergence, a: StepRecord | None, b: StepRecord | None, floor: Floor
) -> Closeness:
    """Put the first decision beside the noise.

    Args:
        first: the first decision that differs.
        a: A's step there, None if A made none.
        b: B's step there.
        floor: noise, by A's count of forwards.
    """
    noise = floor.confidence_at(first.forward_a, first.position)
    mine = _margins(first.a, a, noise, floor.gap)
    moved = None
    if first.a is not None and first.b is not None:
        moved = abs(first.a.confidence - first.b.confidence) / noise
    return Closeness(
        noise=noise,
        moved=moved,
        a=mine,
        b=_margins(first.b, b, noise, floor.gap),
        decisive=_decisive(first, mine),
    )


def _margins(
    candidate: Candidate | None, step: StepRecord | None, noise: float, gap: float
) -> Margins | None:
    if candidate is None or step is None:
        return None
    bound = candidate.bound_margin
    table = step.candidates
    token = logit_gap(table)[table.position == candidate.position]
    return Margins(
        bound=None if bound is None else abs(bound) / noise,
        rank=_rank_gap(candidate, table, noise),
        token=float(token[0]) / gap,
    )


def _rank_gap(candidate: Candidate, table: Candidates, noise: float) -> float | None:
    """To the first that was held back, or to the last that was committed."""
    other_C = table.eligible & (table.committed != candidate.committed)
    if not other_C.any():
        return None
    confidence = table.confidence[other_C]
    nearest = confidence.max() if candidate.committed else confidence.min()
    return abs(float(candidate.confidence - nearest)) / noise


def _decisive(first: Divergence, margins: Margins | None) -> float | None:
    """The margin that the kind of decision rests on."""
    if margins is None or first.a is None or first.kind == "stop":
        return None
    if first.kind == "token":
        return margins.token
    bound = first.a.bound_margin
    by_bound = bound is not None and first.a.committed == (bound >= 0)
    return margins.bound if by_bound else margins.rank


def finite(value: float) -> float | None:
    """A number for JSON, which has no infinity and no NaN."""
    return float(value) if math.isfinite(value) else None


def finite_or_none(values: np.ndarray | None, index: int) -> float | None:
    """One entry of an array that may not be there."""
    return None if values is None else finite(float(values[index]))
