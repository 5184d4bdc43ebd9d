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
    """What a run commits and edits in a step."""
    commits, edits = (
        ", ".join(str(p - start) for p in positions if (p in first.edits) == edited)
        for edited in (False, True)
    )
    parts = [f"commits {commits}"] if commits or not edits else []
    parts += [f"edits {edits}"] if edits else []
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
    if candidate.position in first.edits:
        return f"edits to {token}" if candidate.committed else f"does not edit to {token}"
    return f"{'commits' if candidate.committed else 'holds back'} {token}"


def _age(candidate: Candidate) -> str:
    """Of the scores, where the row skipped."""
    return f", from logits {candidate.age} forwards old (it skipped)" if candidate.age else ""
