"""The first decision at which two runs part, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from skipstone.cli.tokens import Tokens
from skipstone.diff import Divergence
from skipstone.digits import told_apart
from skipstone.record.candidates import Candidate


def parting(first: Divergence, start: int) -> str:
    """How the two runs part.

    Args:
        first: the decision that differs.
        start: the first new position.
    """
    if first.kind == "token":
        return "both commit it, with different tokens"
    if first.kind == "stop":
        return "one run goes on where the other has stopped"
    a, b = (
        _written(positions, first, start) for positions in (first.committed_a, first.committed_b)
    )
    return f"A {a}, B {b}"


def _written(positions: Sequence[int], first: Divergence, start: int) -> str:
    """What a run commits, edits and takes back in a step."""
    edits = set(first.edits) - set(first.revoked)
    kinds = {"commits": set(positions) - set(first.edits), "edits": edits}
    kinds["takes back"] = set(first.revoked)
    told = {kind: [p - start for p in positions if p in of] for kind, of in kinds.items()}
    parts = [f"{kind} {', '.join(map(str, at))}" for kind, at in told.items() if at]
    return " and ".join(parts) if positions else "commits nothing"


def both_sides(first: Divergence, tokens: Tokens) -> Iterator[str]:
    """What each run made of that position; numbers that differ do not look the same."""
    sides = (first.a, first.b)
    bounds = [c.bound if c else None for c in sides]
    confidences = told_apart([*(c.confidence if c else None for c in sides), *bounds])
    margins = told_apart([c.margin if c else None for c in sides], 2)
    for i, (name, candidate) in enumerate(zip("AB", sides, strict=True)):
        if candidate is None:
            yield f"   {name}  has no scores for it in this step"
            continue
        against = "" if candidate.bound is None else f" against {confidences[2 + i]}"
        choice = _choice(candidate, first, tokens)
        yield (
            f"   {name}  {choice}, confidence {confidences[i]}{against}, "
            f"margin {margins[i]} before {tokens(candidate.runner_up)}{_age(candidate)}"
        )


def _choice(candidate: Candidate, first: Divergence, tokens: Tokens) -> str:
    token = tokens(candidate.token)
    if candidate.position in first.revoked:
        return "takes its token back" if candidate.committed else "keeps its token"
    if candidate.position in first.edits:
        return f"edits to {token}" if candidate.committed else f"does not edit to {token}"
    return f"{'commits' if candidate.committed else 'holds back'} {token}"


def _age(candidate: Candidate) -> str:
    """Of the scores, where the row skipped."""
    return f", from logits {candidate.age} forwards old (it skipped)" if candidate.age else ""
