"""Where two runs of one prompt first part, and how much of the answer it changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import zip_longest

import numpy as np

from skipstone.diff.align import align
from skipstone.diff.divergence import Divergence, first_decision
from skipstone.errors import ConfigError
from skipstone.record import Trace
from skipstone.record.judgements import Judgements
from skipstone.record.recorded import Given, record_of, trace_of
from skipstone.record.schema import RunRecord
from skipstone.sentence import Sentence


def tokens_differ(number: int) -> Sentence:
    """How many final tokens differ, as a clause: ``1 final token differs``."""
    if number == 1:
        return Sentence("1 final token differs")
    return Sentence("{number} final tokens differ", number=number)


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

    def __repr__(self) -> str:
        first = "they do not part" if self.first is None else f"they part at {self.first!r}"
        return f"<Comparison: {first}, {tokens_differ(len(self.differing_positions))}>"

    @property
    def identical(self) -> bool:
        """Same tokens, by the same decisions in the same steps."""
        return self.first is None and not self.differing_positions

    def as_json(self) -> dict[str, object]:
        """Plain data; positions count from the first new token, as indices into ``tokens`` do."""
        start = self.a.prompt_length
        return {
            "identical": self.identical,
            "first": None if self.first is None else self.first.as_json(start),
            "differing_positions": [p - start for p in self.differing_positions],
            "similarity": {
                "a": [asdict(summary) for summary in similarity_by_block(self.a)],
                "b": [asdict(summary) for summary in similarity_by_block(self.b)],
            },
        }


def compare(a: Given, b: Given, *, sample: int | None = None) -> Comparison:
    """Compare two runs of the same prompt.

    Args:
        a: the baseline: a recorder, what ``attach`` gave, a trace, the path of one, or a record.
        b: the run to compare with it, likewise.
        sample: which request, if they are batches; None takes the first whose runs part.

    Raises:
        ConfigError: the runs are of different prompts or vocabularies, so that no position of one
            stands for the same thing in the other; or what was given is no run.
        TraceError: there is no trace at a path, or it is damaged.
    """
    if sample is None:
        sample = _first_given_apart(a, b)
    a, b = record_of(a, sample, "a"), record_of(b, sample, "b")
    pairs = align(a, b).pairs
    return Comparison(
        a=a,
        b=b,
        first=first_decision(pairs),
        differing_positions=differing_positions(a, b),
    )


def first_apart(a: Trace, b: Trace) -> int:
    """The first request of two batches whose runs part; the first of all if none does."""
    for number, pair in enumerate(zip(a.records, b.records, strict=False)):
        try:
            if not compare(*pair, sample=0).identical:
                return number
        except ConfigError:
            # They are not of one prompt: that is what there is to say.
            return number
    return 0


def _first_given_apart(a: Given, b: Given) -> int:
    if isinstance(a, RunRecord) or isinstance(b, RunRecord):
        return 0
    return first_apart(trace_of(a, "a"), trace_of(b, "b"))


def differing_positions(a: RunRecord, b: RunRecord) -> tuple[int, ...]:
    """Absolute positions whose final tokens differ, or that only one run has."""
    pairs = enumerate(zip_longest(a.tokens, b.tokens), start=a.prompt_length)
    return tuple(position for position, (x, y) in pairs if x != y)


def similarity_by_block(record: RunRecord) -> tuple[SimilaritySummary, ...]:
    """What the skip rule saw, block by block; empty if there was none."""
    by_block = dict[int, list[Judgements]]()
    for step in record.steps:
        if step.judgements is not None and len(step.judgements):
            by_block.setdefault(step.block, []).append(step.judgements)
    return tuple(_summary(block, judged) for block, judged in by_block.items())


def _summary(block: int, judged: list[Judgements]) -> SimilaritySummary:
    mean = np.concatenate([j.mean for j in judged])
    return SimilaritySummary(
        block=block,
        judged=mean.size,
        smallest=min(float(j.smallest.min()) for j in judged),
        median_mean=float(np.median(mean)),
        largest_mean=float(mean.max()),
        stable=sum(int(j.stable.sum()) for j in judged),
        skipped=sum(int(j.skipped.sum()) for j in judged),
    )
