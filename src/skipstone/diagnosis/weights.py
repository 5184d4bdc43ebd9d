"""The weights of both sides, tensor by tensor: compared before what they compute."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.finding import Finding, Place, Proof
from skipstone.sentence import Code, Sentence, listed

_DECIDES = frozenset(("rows", "commit", "end"))
"""What follows from no weight: which rows are computed, and what is committed of equal scores."""
_NAMED = 3
_NUMBER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


@dataclass(frozen=True)
class Differing:
    """Weights that are not the same in both models, by the names of B."""

    names: tuple[str, ...]
    """Of other values, or of another shape or dtype."""
    more: tuple[str, ...]
    """Of B only, where all that both have are the same."""
    shared: int
    """How many both have."""

    def acts_in(self, layer: int) -> bool:
        """Whether states after a layer can follow from them; layers are counted from 1."""
        first = (_NUMBER.search(name) for name in (*self.names, *self.more))
        return any(found is None or int(found[1]) < layer for found in first)


def differing(a: Mapping[str, str], b: Mapping[str, str]) -> Differing | None:
    """Which weights differ; None if none do, or too few have the same names to tell."""
    shared = [name for name in b if name in a]
    if not shared or 2 * len(shared) < min(len(a), len(b)):
        return None
    names = tuple(name for name in shared if a[name] != b[name])
    known = set(a.values())
    more = tuple(name for name in b if name not in a and b[name] not in known)
    if names or more:
        return Differing(names, () if names else more, len(shared))
    return None


def other_weights(case: Case) -> Finding | None:
    """B has other weights, and what differs first can follow from them.

    Which operation shows them first says nothing then about its code.
    """
    a, b = case.record_a.header, case.record_b.header
    if a.dtype != b.dtype:
        return None
    found = differing(a.tensors, b.tensors)
    if found is None or not _can_follow(case, found):
        return None
    first = case.expected.first
    parted = case.divergence.first
    step = None if first is None else first.step
    return Finding(
        rule="other-inputs",
        number=28,
        what=Sentence("the runs have different weights: {names}", names=_listed(found.names))
        if found.names
        else Sentence("B has weights that A does not have: {names}", names=_listed(found.more)),
        where=Place(
            None if step is None else step.block,
            None if step is None else step.step,
            None if first is None else first.layer,
            None if parted is None else parted.position,
        ),
        evidence=listed(
            [
                *_compared(found.names, a.tensors, b.tensors),
                Sentence(
                    "{differing} of {shared} weights that both have are not the same",
                    differing=len(found.names),
                    shared=found.shared,
                ),
            ]
        ),
        experiment=Sentence("compared before anything else: fingerprints of every weight"),
        proof=Proof.CONSISTENT,
        remedy=Sentence("load the same weights into both models, then compare again"),
        given=True,
    )


def _can_follow(case: Case, found: Differing) -> bool:
    """Whether the first thing that is wrong can be the work of these weights."""
    first = case.expected.first
    if first is None:
        return case.divergence.first is not None and not case.loops.same_scores
    if first.kind in _DECIDES:
        return False
    return first.layer is None or first.kind == "logits" or found.acts_in(first.layer)


def _compared(names: Sequence[str], a: Mapping[str, str], b: Mapping[str, str]) -> list[Sentence]:
    """What each of the first weights is, and whose values it has if others of A have them."""
    said = list[Sentence]()
    for name in names[:_NAMED]:
        others = [other for other, text in a.items() if text == b[name]]
        mine, right = Code(a[name]), Code(b[name])
        said.append(
            Sentence("B's {name} is A's {other}", name=Code(name), other=Code(others[0]))
            if others
            else Sentence("{name}: {a} against {b}", name=Code(name), a=mine, b=right)
        )
    return said


def _listed(names: Sequence[str]) -> Code:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return Code(", ".join(names[:_NAMED]) + more)
