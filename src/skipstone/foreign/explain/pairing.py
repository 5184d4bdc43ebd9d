"""Which two recorded runs are held against each other, and how much of them can be kept.

Shape letters: L canvas length, N rows of a step, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skipstone.diff import Comparison, compare
from skipstone.errors import ConfigError
from skipstone.foreign.explain.evidence import Depth
from skipstone.record import RunRecord, StepRecord, Trace

# Tensors of both runs together, in memory.
_MOST_BYTES = 1 << 30
_SIZES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class RunPair:
    """One run of each side, and one prompt of their batch."""

    run_a: int
    run_b: int
    sample: int
    comparison: Comparison | None
    """None if they do not even have the same prompt."""


def paired(a: Sequence[Trace], b: Sequence[Trace], sample: int | None) -> RunPair:
    """The first runs of one prompt that part; the last ones if none does.

    Args:
        a: runs of the good side.
        b: of the bad side.
        sample: which prompt of a batch; None takes the first that parts.

    Raises:
        ConfigError: there is no such prompt, or nothing was recorded.
    """
    found = list(_pairs(a, b, sample))
    if not found:
        sizes = [len(traces[-1].records) if traces else 0 for traces in (a, b)]
        raise ConfigError(f"sample is {sample}, good has {sizes[0]} samples and bad {sizes[1]}")
    parting = (p for p in found if p.comparison is not None and not p.comparison.identical)
    same_prompt = [p for p in found if p.comparison is not None]
    return next(parting, (same_prompt or found)[-1])


def _pairs(a: Sequence[Trace], b: Sequence[Trace], sample: int | None) -> Iterator[RunPair]:
    free = list(range(len(a)))
    for j, trace in enumerate(b):
        prompts = [record.header.prompt_ids for record in trace.records]
        same = [i for i in free if [r.header.prompt_ids for r in a[i].records] == prompts]
        i = same[0] if same else len(a) - 1
        if same:
            free.remove(i)
        for k in range(min(len(a[i].records), len(prompts))):
            if sample in (None, k) and a[i].records[k].steps and trace.records[k].steps:
                yield RunPair(i, j, k, _compared(a[i].records[k], trace.records[k]))


def _compared(a: RunRecord, b: RunRecord) -> Comparison | None:
    try:
        return compare(a, b)
    except ConfigError:
        return None


def depth_for(a: RunRecord, b: RunRecord, comparison: Comparison | None) -> Depth | None:
    """All tensors if they fit into memory, or those of the steps that lead to where runs part.

    Returns:
        None if the runs do not part, or not even one step fits.
    """
    if comparison is None or comparison.first is None:
        return None
    cost = sum(_bytes(record, step) for record in (a, b) for step in record.steps)
    if cost <= _MOST_BYTES:
        return Depth("full")
    first = comparison.first
    last = (first.block, first.step)
    left, begin = _MOST_BYTES, None
    steps = [step for step in b.steps if (step.block, step.step) <= last]
    for step in reversed(steps):
        left -= 2 * _bytes(b, step)
        if left < 0 or step.block != first.block:
            break
        begin = (step.block, step.step)
    return None if begin is None else Depth("window", (begin, last))


def _bytes(record: RunRecord, step: StepRecord) -> int:
    """What the tensors of a step take: states of its rows, the cache, logits of its masks."""
    header = record.header
    size = _SIZES.get(header.dtype, 4)
    states = (header.num_layers + 1) * step.rows.size * header.width
    cache = 2 * header.num_layers * record.length * header.width
    return size * (states + cache + len(step.candidates) * header.vocab_size)
