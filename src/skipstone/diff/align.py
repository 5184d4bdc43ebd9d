"""Which step of one run stands beside which step of the other.

Steps are matched by what their forward saw: the same canvas in the same block. Between such steps
the canvases have parted; there, steps of the same number stand beside each other, and what is left
over is paired if one canvas contains the other (runs that commit different numbers of tokens).
Matches never cross. Only steps of the same canvas can be compared; the rest is listed with the
reason. A forward that only writes keys and values, and that only one run makes, stands by itself.

Shape letters: G generation length.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

import numpy as np

from skipstone.diff.writes import lone_writes, steps_of_both
from skipstone.errors import ConfigError
from skipstone.record.schema import RunRecord, StepRecord

How = Literal["canvas", "step", "commits", "alone", "writes"]
"""Same canvas; same step number only; one canvas contains the other; no counterpart; none needed,
since it only writes keys and values."""

_MASK = 2  # As in ``StepRecord.status_before``.


@dataclass(frozen=True, eq=False)
class Pair:
    """Two steps beside each other; one of them is None if the other stands alone."""

    a: StepRecord | None
    b: StepRecord | None
    how: How

    def __repr__(self) -> str:
        return f"<Pair by {self.how}: {self.a!r}, {self.b!r}>"

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        """The steps there are, A's first."""
        return tuple(step for step in (self.a, self.b) if step is not None)

    @property
    def reason(self) -> str:
        """Why the two cannot be compared; empty if they can."""
        if self.how == "canvas":
            return ""
        if self.a is None or self.b is None:
            name = "B" if self.a is None else "A"
            if self.how == "writes":
                return f"only {name} has this forward, which writes keys and values and no token"
            return f"only {name} has a step that fits here"
        sizes = self.a.ids_before.size, self.b.ids_before.size
        if sizes[0] != sizes[1]:
            return f"canvases of {sizes[0]} and {sizes[1]} new positions"
        differs = self.a.ids_before != self.b.ids_before
        differs |= self.a.status_before != self.b.status_before
        return f"the canvases differ at {np.count_nonzero(differs)} of {sizes[0]} new positions"


@dataclass(frozen=True, eq=False)
class Alignment:
    """All steps of two runs, in order."""

    pairs: tuple[Pair, ...]
    limits: tuple[str, ...] = ()
    """What cannot be compared between these runs at all, and what is left."""

    def __repr__(self) -> str:
        return f"<Alignment of {len(self.pairs)} pairs, {len(self.comparable)} on one canvas>"

    @property
    def comparable(self) -> list[tuple[StepRecord, StepRecord]]:
        """Steps that saw the same canvas."""
        return [
            (pair.a, pair.b)
            for pair in self.pairs
            if pair.how == "canvas" and pair.a is not None and pair.b is not None
        ]

    def count(self, how: How) -> int:
        """Number of pairs found in this way."""
        return sum(pair.how == how for pair in self.pairs)


def align(a: RunRecord, b: RunRecord) -> Alignment:
    """Align two runs of one prompt.

    Raises:
        ConfigError: the runs are of different prompts or vocabularies, so that no position of one
            stands for the same thing in the other.
    """
    check_same_prompt(a, b)
    steps_a, steps_b = (run.steps for run in steps_of_both(a, b))
    pairs = align_steps(steps_a, steps_b)
    return Alignment((*_with_writes(pairs, a, b),), (*_limits(a, b, pairs),))


def align_steps(a: Sequence[StepRecord], b: Sequence[StepRecord]) -> tuple[Pair, ...]:
    """Align the steps of two runs: every step of either is in exactly one pair."""
    pairs = list[Pair]()
    for same, mine, theirs in _matches(a, b, seen_canvas):
        if same:
            pairs += [Pair(x, y, "canvas") for x, y in zip(mine, theirs, strict=True)]
        else:
            pairs += _by_number(mine, theirs)
    return tuple(pairs)


def step_key(step: StepRecord) -> tuple[int, int, bool]:
    """Where a step stands in its run: block, step, whether it repeats an empty one."""
    return step.block, step.step, step.recovery


def check_same_prompt(a: RunRecord, b: RunRecord) -> None:
    """Refuse runs in which a position does not stand for the same thing.

    Raises:
        ConfigError: the prompts, the vocabularies or the tokens given behind the prompts differ.
    """
    if a.header.prompt_ids != b.header.prompt_ids:
        raise ConfigError(
            f"the runs have different prompts ({len(a.header.prompt_ids)} and "
            f"{len(b.header.prompt_ids)} ids); compare runs of one prompt"
        )
    if a.header.vocab_size != b.header.vocab_size:
        raise ConfigError(
            f"the runs have different vocabularies ({a.header.vocab_size} and "
            f"{b.header.vocab_size} ids); compare runs of one model"
        )
    given = _given_otherwise(a, b)
    if given is not None:
        raise ConfigError(
            f"the runs fill in different texts: other tokens were given at position {given}; "
            "compare runs of one text"
        )


def _given_otherwise(a: RunRecord, b: RunRecord) -> int | None:
    """The first position behind the prompt at which the runs were given something else."""
    if not a.steps or not b.steps or a.steps[0].forward or b.steps[0].forward:
        # The beginning was not recorded.
        return None
    first_a, first_b = a.steps[0], b.steps[0]
    length = min(first_a.ids_before.size, first_b.ids_before.size)
    ids = first_a.ids_before[:length] != first_b.ids_before[:length]
    masks = (first_a.status_before == 2)[:length] & (first_b.status_before == 2)[:length]
    other = np.flatnonzero(ids & ~masks)
    return int(other[0]) + a.prompt_length if other.size else None


def _matches(
    a: Sequence[StepRecord], b: Sequence[StepRecord], key: Callable[[StepRecord], Hashable]
) -> Iterator[tuple[bool, Sequence[StepRecord], Sequence[StepRecord]]]:
    """Stretches of both runs in order, with whether their keys are equal one by one."""
    keys = [key(step) for step in a], [key(step) for step in b]
    for tag, i, j, k, m in SequenceMatcher(None, *keys, autojunk=False).get_opcodes():
        yield tag == "equal", a[i:j], b[k:m]


def seen_canvas(step: StepRecord) -> Hashable:
    """What a step started from: its block, and the canvas up to the last row computed so far.

    What no forward has computed, no row has seen: masks behind a block where attention is causal
    over blocks, however many there are.
    """
    computed = np.flatnonzero(step.entered_age >= 0)
    stop = max(0, int(computed.max(initial=-1)) + 1 - step.prompt_length)
    # The bytes that the fingerprint is taken from: a collision would pair strangers.
    ids, status = step.ids_before[:stop], step.status_before[:stop]
    return step.block, step.recovery, ids.tobytes(), status.tobytes()


def _with_writes(pairs: Iterable[Pair], a: RunRecord, b: RunRecord) -> Iterator[Pair]:
    """Pairs of steps, each behind the lone writes that came before it."""
    lone_a, lone_b = lone_writes(a, b), lone_writes(b, a)
    waiting_a = [step for step in a.steps if step.forward in lone_a]
    waiting_b = [step for step in b.steps if step.forward in lone_b]
    for pair in pairs:
        while waiting_a and pair.a is not None and waiting_a[0].forward < pair.a.forward:
            yield Pair(waiting_a.pop(0), None, "writes")
        while waiting_b and pair.b is not None and waiting_b[0].forward < pair.b.forward:
            yield Pair(None, waiting_b.pop(0), "writes")
        yield pair
    yield from (Pair(step, None, "writes") for step in waiting_a)
    yield from (Pair(None, step, "writes") for step in waiting_b)


def _by_number(a: Sequence[StepRecord], b: Sequence[StepRecord]) -> Iterator[Pair]:
    for same, mine, theirs in _matches(a, b, step_key):
        if same:
            yield from (Pair(x, y, "step") for x, y in zip(mine, theirs, strict=True))
        else:
            yield from _by_commits(mine, theirs)


def _by_commits(a: Sequence[StepRecord], b: Sequence[StepRecord]) -> Iterator[Pair]:
    """Pair each step of A with the closest step of B that is nested with it."""
    start = 0
    waiting = list[StepRecord]()
    for step in a:
        nested = [j for j in range(start, len(b)) if _nested(step, b[j])]
        if not nested:
            waiting.append(step)
            continue
        found = min(nested, key=lambda j: _apart(step, b[j]))
        yield from _alone(waiting, b[start:found])
        yield Pair(step, b[found], "commits")
        start = found + 1
        waiting.clear()
    yield from _alone(waiting, b[start:])


def _alone(a: Sequence[StepRecord], b: Sequence[StepRecord]) -> list[Pair]:
    pairs = [Pair(step, None, "alone") for step in a] + [Pair(None, step, "alone") for step in b]
    return sorted(pairs, key=lambda pair: step_key(pair.steps[0]))


def _nested(a: StepRecord, b: StepRecord) -> bool:
    """Whether one canvas has everything that the other has, in the same block."""
    if a.block != b.block or a.ids_before.size != b.ids_before.size:
        return False
    known_a, known_b = a.status_before != _MASK, b.status_before != _MASK
    common = known_a & known_b & (a.ids_before == b.ids_before)
    return bool((common == known_a).all() or (common == known_b).all())


def _apart(a: StepRecord, b: StepRecord) -> int:
    return int(np.count_nonzero(a.status_before != b.status_before))


def _limits(a: RunRecord, b: RunRecord, pairs: Sequence[Pair]) -> Iterator[str]:
    lengths = a.header.gen_length, b.header.gen_length
    if lengths[0] != lengths[1]:
        same = sum(pair.how == "canvas" for pair in pairs)
        yield f"gen_length is {lengths[0]} and {lengths[1]}: " + (
            f"{same} steps saw the same part of the canvas, and are compared in full; the others "
            f"by block and step, final tokens where both runs have them"
            if same
            else "attention sees another number of masks, so no two canvases are the same; "
            "decisions are compared by block and step, final tokens where both runs have them, "
            "states not at all"
        )
    blocks = _block_length(a), _block_length(b)
    if 0 not in blocks and blocks[0] != blocks[1]:
        yield (
            f"block_length is {blocks[0]} and {blocks[1]}: steps are compared while the block "
            f"number and the canvas agree, states at the positions that both runs computed"
        )
    for name, run in (("A", a), ("B", b)):
        for hole in run.holes:
            yield f"{name} lacks steps that were recorded: {hole}; copy it again"
        if run.outcome is None:
            yield f"{name} is unfinished: it is compared as far as it goes"


def _block_length(run: RunRecord) -> int:
    return run.steps[0].block_stop - run.steps[0].block_start if run.steps else 0
