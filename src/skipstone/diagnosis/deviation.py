"""Where a recorded run first does something else than its settings say.

The expected run was run on the recorded canvases, so both sides of every comparison had the same
input. What is compared comes in the order in which a step computes it.

Shape letters: C candidates, J judged rows, N rows, W values of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.diagnosis.skip_rule import SkipRule
from skipstone.diff import Floor
from skipstone.diff import logit_gap as gap
from skipstone.diff.states import computed
from skipstone.record import RunRecord, StepRecord, Tap, TensorKey, Trace

DeviationKind = Literal[
    "rows",
    "refresh",
    "similarity",
    "skip",
    "state",
    "key",
    "value",
    "logits",
    "scores",
    "confidence",
    "token",
    "commit",
    "canvas",
    "end",
]


@dataclass(frozen=True, eq=False)
class Deviation:
    """One quantity of one step that is not what it should be."""

    kind: DeviationKind
    step: StepRecord
    """As it was recorded."""
    expected: StepRecord | None
    """As it should have been; None if it should not have been at all."""
    positions: np.ndarray
    """int [P]: absolute positions concerned."""
    size: float = float("nan")
    """Largest error; relative, or in the unit of the quantity."""
    floor: float = 0.0
    """What noise can do."""
    layer: int | None = None

    @property
    def position(self) -> int | None:
        """The first position concerned."""
        return int(self.positions.min()) if self.positions.size else None


def decision_deviations(
    record: RunRecord, expected: RunRecord, floor: Floor
) -> Iterator[Deviation]:
    """Every deviation that shows without tensors, step by step, in the order of computation.

    What noise can turn is no deviation: another commit or skip, if the run keeps to its rule on its
    own numbers and these are within noise of the expected ones. Where noise let another row skip,
    the rest of the block has other states for a good reason, and nothing is said about it.
    """
    wanted = {step.forward: step for step in expected.steps}
    blockwise = _block_by_block(record) and _block_by_block(expected)
    settled = record if blockwise else None
    rule, skip = CommitRule.of(record), SkipRule.of(record)
    clouded = -1
    for step in record.steps:
        if step.forward not in wanted or step.block == clouded:
            continue
        if _skips_by_noise(step, wanted[step.forward], floor, skip):
            clouded = step.block
            continue
        yield from _of_step(step, wanted[step.forward], floor, rule, settled)
    yield from _between_steps(record, wanted)


def _of_step(
    step: StepRecord,
    expected: StepRecord,
    floor: Floor,
    rule: CommitRule | None,
    settled: RunRecord | None,
) -> Iterator[Deviation]:
    """Those of one step; ``settled`` is its run, if what lies left of its blocks is final."""
    other = np.setxor1d(step.rows, expected.rows)
    if other.size and (settled is None or not _kept_right(settled, step, expected, other)):
        yield Deviation("rows", step, expected, other, float(other.size))
        return
    yield from _similarity(step, expected, floor)
    other = np.setdiff1d(_left_elsewhere(step, expected), other)
    # Rows that a cache policy leaves out in some layers follow from what the layers were given.
    dropped = step.skip_layer or expected.skip_layer or step.positions_from != "engine"
    if other.size and dropped:
        yield Deviation("skip", step, expected, other, float(other.size))
    scores = list(_scores(step, expected, floor))
    yield from scores
    obeyed = not scores and rule is not None and rule.commits(step) == step.committed
    if step.committed != expected.committed and not obeyed:
        positions = np.setxor1d(step.committed, expected.committed)
        yield Deviation("commit", step, expected, positions, float(positions.size))
    filled = np.flatnonzero((step.status_after == 4) != (expected.status_after == 4))
    if step.committed == expected.committed and filled.size:
        yield Deviation("end", step, expected, filled + step.prompt_length, float(filled.size))


def _left_elsewhere(step: StepRecord, expected: StepRecord) -> np.ndarray:
    """Rows that went through all layers on one side alone, or left before another layer."""
    found = np.setxor1d(step.finished, expected.finished)
    if step.skip_layers is None or expected.skip_layers is None:
        return found
    common, i, j = np.intersect1d(step.rows, expected.rows, return_indices=True)
    return np.union1d(found, common[step.skip_layers[i] != expected.skip_layers[j]])


def _kept_right(
    record: RunRecord, step: StepRecord, expected: StepRecord, other: np.ndarray
) -> bool:
    """Whether rows that only one side computes are those that the other has kept for good reason.

    Block by block, what lies left of a block is final, and code that is not ours may keep it or
    compute it again as it likes, once it had its last ids.
    """
    if step.positions_from == "engine" or other.max() >= step.block_start:
        return False
    sides = [s for s in (step, expected) if s.positions_from != "engine"]
    if not all(bool((s.entered_age[other] >= 0).all()) for s in sides):
        return False
    return not before_their_commit(record, step, np.setdiff1d(other, step.rows)).size


def before_their_commit(record: RunRecord, step: StepRecord, kept: np.ndarray) -> np.ndarray:
    """Of rows that a step has kept, those that were computed while they had other ids.

    A forward that is no step of the record has written what had its last ids.
    """
    ids = {s.forward: s.ids_before for s in record.steps}
    kept = kept[kept >= step.prompt_length]
    now, at = step.ids_before, kept - step.prompt_length
    then = (ids.get(f, now) for f in (step.forward - step.entered_age[kept]).tolist())
    changed = [before[i] != now[i] for before, i in zip(then, at.tolist(), strict=True)]
    return kept[np.array(changed, bool)]


def _block_by_block(record: RunRecord) -> bool:
    """Whether a run computes nothing right of its blocks, and has steps with something there."""
    right = [step.entered_age[step.block_stop :] for step in record.steps]
    return any(age.size for age in right) and not any((age >= 0).any() for age in right)


def _similarity(step: StepRecord, expected: StepRecord, floor: Floor) -> Iterator[Deviation]:
    mine, right = step.judgements, expected.judgements
    if mine is None or right is None:
        # Other code does not tell what it judged.
        told = mine is not None or step.positions_from == "engine"
        if told and (mine is not None or right is not None):
            yield Deviation("similarity", step, expected, step.rows)
        return
    if not np.array_equal(mine.position, right.position):
        return
    if mine.similarity.shape != right.similarity.shape:
        yield Deviation("similarity", step, expected, mine.position)
        return
    error = np.abs(mine.similarity - right.similarity).max(1)
    beyond = ~(error <= floor.similarity)
    if beyond.any():
        size = float(error[beyond].max())
        positions = mine.position[beyond]
        yield Deviation("similarity", step, expected, positions, size, floor.similarity)


def _skips_by_noise(
    step: StepRecord, expected: StepRecord, floor: Floor, skip: SkipRule | None
) -> bool:
    """Whether other rows skip, and only because the threshold is within the noise."""
    other = np.setxor1d(step.finished, expected.finished)
    mine, right = step.judgements, expected.judgements
    if not other.size or skip is None or mine is None or right is None:
        return False
    if not np.array_equal(mine.position, right.position):
        return False
    held, due = skip.replay(mine), skip.replay(right)
    if held is None or due is None:
        return False
    close = np.abs(held.slack_J - due.slack_J) <= floor.similarity
    close &= np.abs(held.slack_J) <= floor.similarity
    keeps = mine.stable == held.stable_J
    undecided = mine.position[close & keeps & (mine.forced == right.forced)]
    return bool(np.isin(other, undecided).all())


def _scores(step: StepRecord, expected: StepRecord, floor: Floor) -> Iterator[Deviation]:
    """Tokens and confidences of the candidates that both know."""
    mine, right = step.candidates, expected.candidates
    _, i, j = np.intersect1d(mine.position, right.position, return_indices=True)
    # An old score is as old as the trajectory; where one side's is fresh, it is this step's own.
    fresh = (mine.age[i] == 0) | (right.age[j] == 0)
    i, j = i[fresh], j[fresh]
    positions = mine.position[i]
    error = np.abs(gap(mine)[i] - gap(right)[j])
    swapped = mine.token[i] != right.token[j]
    error = np.where(swapped, gap(mine)[i] + gap(right)[j], error)
    beyond = ~(error <= floor.gap)
    if beyond.any():
        size = float(np.nanmax(error[beyond])) if not np.isnan(error[beyond]).all() else np.nan
        yield Deviation("scores", step, expected, positions[beyond], size, floor.gap)
    off = np.abs(mine.confidence[i] - right.confidence[j])
    beyond = ~(off <= floor.confidence) & ~swapped
    if beyond.any():
        size = float(np.nanmax(off[beyond])) if not np.isnan(off[beyond]).all() else np.nan
        yield Deviation("confidence", step, expected, positions[beyond], size, floor.confidence)
    # Two tokens whose logits are within noise of each other on both sides may change places.
    swapped &= ~((np.abs(gap(mine)[i]) <= floor.gap) & (np.abs(gap(right)[j]) <= floor.gap))
    if swapped.any():
        yield Deviation("token", step, expected, positions[swapped], float(swapped.sum()))


def _between_steps(record: RunRecord, wanted: Mapping[int, StepRecord]) -> Iterator[Deviation]:
    """Canvases that changed between two steps, or otherwise than by the commit of their step.

    A loop may edit what it has committed; if it should, the expected step did the same.
    """
    for step, after in zip(record.steps, record.steps[1:], strict=False):
        moved = np.flatnonzero(step.ids_after != after.ids_before)
        if moved.size:
            positions = moved + step.prompt_length
            yield Deviation("canvas", after, step, positions, float(moved.size))
    for step in record.steps:
        written = np.flatnonzero(step.ids_before != step.ids_after) + step.prompt_length
        filled = np.flatnonzero(step.status_after == 4) + step.prompt_length
        stray = np.setdiff1d(np.setdiff1d(written, step.committed), filled)
        right = wanted.get(step.forward)
        if right is not None and right.ids_after.shape == step.ids_after.shape:
            new = stray - step.prompt_length
            stray = stray[step.ids_after[new] != right.ids_after[new]]
        if stray.size:
            yield Deviation("canvas", step, step, stray, float(stray.size))


def errors(
    trace: Trace, sample: int, expected: Trace, key: TensorKey
) -> tuple[np.ndarray, np.ndarray] | None:
    """Relative error of each position that both have: positions [N], errors float64 [N].

    None if one side has not recorded the tensor.
    """
    mine, right = trace.tensor(sample, key), expected.tensor(0, key)
    if mine is None or right is None:
        return None
    positions = np.intersect1d(mine.positions, right.positions)
    a_NW, b_NW = mine.at(positions), right.at(positions)
    if key.tap is Tap.LOGITS:
        a_NW, b_NW = a_NW - a_NW.mean(1, keepdims=True), b_NW - b_NW.mean(1, keepdims=True)
    scale = np.linalg.norm(b_NW, axis=1)
    # A row of zeros has no scale; any difference from it is as large as the row.
    error = np.linalg.norm(a_NW - b_NW, axis=1) / np.where(scale > 0, scale, 1.0)
    return positions, np.where((a_NW == b_NW).all(1), 0.0, error)


def tensor_deviations(
    trace: Trace, sample: int, expected: Trace, forward: int, floor: Floor
) -> list[Deviation]:
    """Tensors of one step beyond the floor, in the order in which the step computes them."""
    record = trace.records[sample]
    step = next(s for s in record.steps if s.forward == forward)
    right = next((s for s in expected.records[0].steps if s.forward == forward), None)
    found = list[Deviation]()
    keys = (k for k in trace.keys(sample) if k.forward == forward and k.tap in _KINDS)
    for key in sorted(keys, key=computed):
        pair = errors(trace, sample, expected, key)
        if pair is None:
            continue
        positions, error = pair
        level = floor.level(key.tap, key.layer)
        beyond = ~(error <= level)
        if beyond.any():
            worst = error[beyond]
            size = float(np.nanmax(worst)) if not np.isnan(worst).all() else float("nan")
            kind = _KINDS[key.tap]
            found.append(Deviation(kind, step, right, positions[beyond], size, level, key.layer))
    return found


_KINDS: dict[Tap, DeviationKind] = {
    Tap.KEY: "key",
    Tap.VALUE: "value",
    Tap.STATE: "state",
    Tap.LOGITS: "logits",
}
