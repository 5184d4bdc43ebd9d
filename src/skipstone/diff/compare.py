"""Where two runs of one prompt first part, and how much of the answer it changed.

Runs are aligned by (block, step, recovery). Until the first divergence both canvases are equal, so
the first step whose commits differ is the first decision that differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import zip_longest
from statistics import median
from typing import Literal

from skipstone.errors import ConfigError
from skipstone.record import Candidate, RunRecord, StepRecord

Kind = Literal["committed_set", "token", "stop"]


@dataclass(frozen=True)
class Divergence:
    """The first decision that differs."""

    block: int
    step: int
    position: int
    """Absolute position on the canvas; where several differ, the first of them."""
    kind: Kind
    """Other positions were committed; another token was; or only one run made this step."""
    a: Candidate | None
    """What A knew about this position in this step; None if it had no scores for it."""
    b: Candidate | None
    committed_a: tuple[int, ...]
    """Positions that A committed in this step."""
    committed_b: tuple[int, ...]


@dataclass(frozen=True)
class SimilaritySummary:
    """The similarities that a skip rule saw in one block."""

    block: int
    judged: int
    """Rows judged, over all steps of the block."""
    smallest: float
    """Smallest similarity of any row in any layer."""
    median_mean: float
    """Median over rows of the mean similarity."""
    largest_mean: float
    """Largest mean similarity of any row."""
    stable: int
    """Rows that the similarities allowed to skip."""
    skipped: int
    """Rows that did skip; the rest of the stable ones was forced to go on."""


@dataclass(frozen=True)
class Comparison:
    """Two runs of one prompt side by side."""

    a: RunRecord
    b: RunRecord
    first: Divergence | None
    differing_positions: tuple[int, ...]
    """Absolute positions whose final tokens differ."""

    @property
    def identical(self) -> bool:
        """Same tokens, by the same decisions in the same steps."""
        return self.first is None and not self.differing_positions

    def as_json(self) -> dict[str, object]:
        """Plain data; positions count from the first new token, as indices into ``tokens`` do."""
        start = self.a.prompt_length
        first = None
        if self.first is not None:
            first = {
                "block": self.first.block,
                "step": self.first.step,
                "position": self.first.position - start,
                "kind": self.first.kind,
                "canvas_position": self.first.position,
                "committed_a": [p - start for p in self.first.committed_a],
                "committed_b": [p - start for p in self.first.committed_b],
                "a": None if self.first.a is None else asdict(self.first.a),
                "b": None if self.first.b is None else asdict(self.first.b),
            }
        return {
            "identical": self.identical,
            "first": first,
            "differing_positions": [p - start for p in self.differing_positions],
            "similarity": {
                "a": [asdict(summary) for summary in similarity_by_block(self.a)],
                "b": [asdict(summary) for summary in similarity_by_block(self.b)],
            },
        }


def compare(a: RunRecord, b: RunRecord) -> Comparison:
    """Compare two runs of the same prompt.

    Raises:
        ConfigError: the runs are of different prompts or vocabularies, so that no position of one
            stands for the same thing in the other.
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
    pairs = enumerate(zip_longest(a.outcome.tokens, b.outcome.tokens), start=a.prompt_length)
    return Comparison(
        a=a,
        b=b,
        first=first_divergence(a.steps, b.steps),
        differing_positions=tuple(position for position, (x, y) in pairs if x != y),
    )


def first_divergence(a: Iterable[StepRecord], b: Iterable[StepRecord]) -> Divergence | None:
    """The first step in which two runs commit different things; None if they never do."""
    for mine, theirs in zip_longest(a, b):
        if mine is None or theirs is None or _key(mine) != _key(theirs):
            # One run goes on where the other has ended its block, its budget, or itself.
            known = [step for step in (mine, theirs) if step is not None]
            step = min(known, key=_key)
            return _divergence(step, "stop", step.block_start, mine, theirs)
        if mine.committed != theirs.committed:
            position = min(set(mine.committed) ^ set(theirs.committed))
            return _divergence(mine, "committed_set", position, mine, theirs)
        changed = [
            x.position
            for x, y in zip(_commits(mine), _commits(theirs), strict=True)
            if x.token != y.token
        ]
        if changed:
            return _divergence(mine, "token", changed[0], mine, theirs)
        if mine.status_after != theirs.status_after:
            # The same commits, but only one run stopped at EOS.
            position = _first_difference(mine, theirs)
            return _divergence(mine, "stop", position, mine, theirs)
    return None


def similarity_by_block(record: RunRecord) -> tuple[SimilaritySummary, ...]:
    """What the skip rule saw, block by block; empty if there was none."""
    by_block = dict[int, list[StepRecord]]()
    for step in record.steps:
        if step.judgements:
            by_block.setdefault(step.block, []).append(step)
    return tuple(_summary(block, steps) for block, steps in by_block.items())


def _summary(block: int, steps: list[StepRecord]) -> SimilaritySummary:
    judged = [judgement for step in steps for judgement in step.judgements]
    return SimilaritySummary(
        block=block,
        judged=len(judged),
        smallest=min(j.smallest for j in judged),
        median_mean=median(j.mean for j in judged),
        largest_mean=max(j.mean for j in judged),
        stable=sum(j.stable for j in judged),
        skipped=sum(j.skipped for j in judged),
    )


def _key(step: StepRecord) -> tuple[int, int, bool]:
    return step.block, step.step, step.recovery


def _commits(step: StepRecord) -> list[Candidate]:
    return [candidate for candidate in step.candidates if candidate.committed]


def _first_difference(a: StepRecord, b: StepRecord) -> int:
    start = len(a.entered_age) - len(a.status_after)
    pairs = zip(a.status_after, b.status_after, strict=False)
    return start + next((i for i, (x, y) in enumerate(pairs) if x != y), len(a.status_after))


def _divergence(
    at: StepRecord, kind: Kind, position: int, a: StepRecord | None, b: StepRecord | None
) -> Divergence:
    def known(step: StepRecord | None) -> Candidate | None:
        if step is None or _key(step) != _key(at):
            return None
        return next((c for c in step.candidates if c.position == position), None)

    return Divergence(
        block=at.block,
        step=at.step,
        position=position,
        kind=kind,
        a=known(a),
        b=known(b),
        committed_a=() if a is None else a.committed,
        committed_b=() if b is None else b.committed,
    )
