"""Which cached rows decide? Fresh keys and values are patched in, and the set is halved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Follow, Patch
from skipstone.record import StepRecord, Tap, Trace
from skipstone.sentence import Sentence


@dataclass(frozen=True)
class DecidingPart:
    """A smallest part that decides."""

    layer: int | None
    """The first layer whose rows are needed; None if it was not narrowed down."""
    positions: tuple[int, ...]
    evidence: Sentence
    experiment: Sentence


def decisive(case: Case, step: StepRecord) -> DecidingPart | None:
    """Bisect the cached rows of a step down to those whose freshness decides its commits.

    None if fresh rows cannot be computed here, or do not change the decision.
    """
    fresh = case.ask(
        Follow("b", "b", (step.forward, step.forward), (("cache", "none"), ("skip", "none")))
    )
    if fresh is None:
        return None
    cached = np.setdiff1d(np.arange(case.record_b.length), step.rows)
    layers = range(1, case.record_b.header.num_layers + 1)
    if not cached.size or not _restores(case, step, fresh, cached, layers):
        return None
    positions = _halve(case, step, fresh, cached, layers)
    few = _halve_layers(case, step, fresh, positions, layers)
    return DecidingPart(
        layer=few[0],
        positions=tuple(positions.tolist()),
        evidence=Sentence(
            "{few} of {all} cached rows decide, in layers {first} to {last}",
            few=positions.size,
            all=cached.size,
            first=few[0],
            last=few[-1],
        ),
        experiment=Sentence(
            "fresh K/V at {positions} positions of {layers} layers restore A's decision",
            positions=positions.size,
            layers=len(few),
        ),
    )


def _restores(
    case: Case, step: StepRecord, fresh: Trace, positions: np.ndarray, layers: range
) -> bool:
    patches = list[Patch]()
    for key in fresh.keys(0):
        if key.forward == step.forward and key.tap in (Tap.KEY, Tap.VALUE) and key.layer in layers:
            rows = fresh.tensor(0, key)
            assert rows is not None
            patches.append(Patch(key.tap, key.forward, key.layer, positions, rows.at(positions)))
    name = f"fresh K/V at {_spell(positions)}, layers {layers[0]}-{layers[-1]}"
    trace = case.ask(
        Follow(
            "b",
            "b",
            (step.forward, step.forward),
            patches=tuple(patches),
            patch_name=name,
            tensors=False,
        )
    )
    other = case.divergence.same_step(step)
    if trace is None or other is None:
        return False
    steps = trace.records[0].steps
    found = next((s for s in steps if s.forward == step.forward), None)
    return found is not None and found.decides_as(other)


def _halve(
    case: Case, step: StepRecord, fresh: Trace, positions: np.ndarray, layers: range
) -> np.ndarray:
    while positions.size > 1:
        half = positions.size // 2
        for part in (positions[:half], positions[half:]):
            if _restores(case, step, fresh, part, layers):
                positions = part
                break
        else:
            return positions
    return positions


def _halve_layers(
    case: Case, step: StepRecord, fresh: Trace, positions: np.ndarray, layers: range
) -> range:
    while len(layers) > 1:
        half = len(layers) // 2
        for part in (layers[:half], layers[half:]):
            if _restores(case, step, fresh, positions, part):
                layers = part
                break
        else:
            return layers
    return layers


def _spell(positions: np.ndarray) -> str:
    return ",".join(map(str, positions.tolist()))
