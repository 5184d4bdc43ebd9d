"""What makes attention differ, as the cause of a diagnosis; None where the parts do not tell one.

Keys and values that were read from a cache may be wrong for reasons of the cache; here they are a
cause only where the way that they are wrong names attention itself.

Shape letters: N rows, K keys, M rows of a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from skipstone.diagnosis.attention.difference import AttentionDifference, AttentionPart, Tensor
from skipstone.diagnosis.attention.relation import TURNS, Relation, relation

Name = Literal["visible-set", "position-encoding", "module-bug", "quantised", "nondeterminism"]


@dataclass(frozen=True, eq=False)
class Cause:
    """Why attention of one layer gives something else."""

    name: Name
    """Of the diagnosis."""
    found: AttentionDifference
    parts: tuple[AttentionPart, ...]
    """Whose exchange was tried: with A's, B's attention gives what A's gave."""
    relation: Relation | None = None
    """How B's rows follow from A's; None if the parts are no rows."""
    cached: bool = False
    """Whether only rows differ that were read from a cache."""


def cause_of(found: AttentionDifference) -> Cause | None:
    """The cause that the parts of a difference tell."""
    if found.fewer_keys:
        return Cause("visible-set", found, ("visible",))
    if found.b.drops and not found.differ and found.positions.size:
        return Cause("nondeterminism", found, ("arithmetic",))
    if not found.parts:
        return None
    parts = set(found.parts)
    if parts == {"visible"}:
        return Cause("visible-set", found, found.parts)
    if parts == {"rounding"}:
        return Cause("quantised", found, found.parts)
    if parts in ({"scale"}, {"sharing"}, {"arithmetic"}):
        return Cause("module-bug", found, found.parts)
    rows: list[Tensor] = [part for part in ("queries", "keys", "values") if part in parts]
    return _of_rows(found, rows) if len(rows) == len(parts) else None


def _of_rows(found: AttentionDifference, rows: Sequence[Tensor]) -> Cause | None:
    """Queries, keys or values that follow from A's in one way."""
    if set(rows) == {"queries", "keys"} and found.swapped:
        return Cause("module-bug", found, found.parts)
    relations = [_relation(found, part) for part in rows]
    kinds = {None if r is None else r.kind for r in relations}
    first, cached = relations[0], all(_cached(found, part) for part in rows)
    if first is None or None in kinds:
        return None
    turns = kinds <= TURNS | {"rounded"} and "values" not in rows
    if turns and (kinds & TURNS or set(rows) == {"queries", "keys"}):
        told = next((r for r in relations if r is not None and r.kind in TURNS), first)
        return Cause("position-encoding", found, found.parts, told, cached)
    if kinds == {"rounded"} and set(rows) == {"queries", "keys", "values"}:
        return Cause("quantised", found, found.parts, first)
    if len(kinds) > 1 or cached or kinds == {"rounded"} or kinds & TURNS:
        return None
    return Cause("module-bug", found, found.parts, first)


def _relation(found: AttentionDifference, part: Tensor) -> Relation | None:
    positions, a, b = found.pair(part)
    wrong = found.wrong(part)
    if wrong.size != positions.size:
        return None
    seen = relation(positions[wrong], a[wrong], b[wrong], found.level, found.b.dtype, found.bases)
    # At position 0 no rotation turns anything; other changes that keep lengths do.
    if seen is not None and seen.kind == "pairs" and wrong[positions == 0].any():
        return None
    return seen


def _cached(found: AttentionDifference, part: Tensor) -> bool:
    """Whether no row of a part that differs was computed in this step."""
    positions = found.pair(part)[0][found.wrong(part)]
    return part != "queries" and not np.isin(positions, found.step.rows).any()
