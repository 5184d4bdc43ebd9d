"""The first row of a tensor beyond the noise, and the first that is not equal bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from skipstone.diff.floor import Floor
from skipstone.diff.margins import finite, finite_or_none
from skipstone.diff.states import RowErrors, TensorPair, tensor_pairs
from skipstone.policies import SKIP
from skipstone.record.schema import RunRecord, StepRecord
from skipstone.record.tensors import OF_ATTENTION, Source, Tap, TensorRows
from skipstone.record.trace import Trace

_TAPS = {
    Tap.STATE: "hidden states",
    Tap.KEY: "keys",
    Tap.VALUE: "values",
    Tap.LOGITS: "logits",
    Tap.UNGUIDED: "logits with the prompt hidden",
    Tap.SKETCH: "sketches",
}


@dataclass(frozen=True)
class Provenance:
    """Where the values of one row come from."""

    source: str
    """``computed`` in this forward, ``cached`` or ``skipped``."""
    age: int
    """Forwards since."""
    score: float | None
    """Mean similarity that let the row skip."""
    threshold: float | None
    """What the score was held against; None if the skip policy is not known here."""


@dataclass(frozen=True)
class TensorDivergence:
    """One row of a tensor in which two runs differ although they saw the same canvas."""

    block: int
    step: int
    forward_a: int
    forward_b: int
    tap: Tap
    layer: int
    """From 1; 0 is the embedding."""
    position: int
    """Absolute; the lowest of ``positions``."""
    positions: tuple[int, ...]
    """All positions of this tensor that differ in this way."""
    relative_l2: float | None
    """None where a value is not finite; so are the following."""
    floor: float
    """What noise can do to ``relative_l2`` here."""
    cosine: float | None
    norm_ratio: float | None
    kl: float | None
    """Of logits only."""
    largest_log_ratio: float | None
    top1_flip: bool | None
    a: Provenance
    b: Provenance

    def as_json(self, prompt_length: int) -> dict[str, object]:
        """Plain data; positions count from the first new token, negative in the prompt."""
        return asdict(self) | {
            "tap": self.tap.value,
            "position": self.position - prompt_length,
            "canvas_position": self.position,
            "positions": [p - prompt_length for p in self.positions],
        }


@dataclass(frozen=True)
class Search:
    """What a walk over the tensors of two traces found."""

    state: TensorDivergence | None
    bit: TensorDivergence | None
    tensors: int
    """Tensors compared; the walk ends at the first state beyond the noise."""
    rows: int
    limits: tuple[str, ...]
    """What could not be compared, and why."""


def search(
    a: Trace,
    b: Trace,
    steps: Sequence[tuple[StepRecord, StepRecord]],
    floor: Floor,
    *,
    sample: int = 0,
) -> Search:
    """Walk over all tensors in order of computation, up to the first beyond the noise.

    Args:
        a: the baseline.
        b: the other run.
        steps: pairs of steps that saw the same canvas.
        floor: what noise can do.
        sample: which request of both.
    """
    state = bit = None
    seen, bars = _Seen(), (_bar(a.records[sample]), _bar(b.records[sample]))
    for pair in tensor_pairs(a, b, steps, sample_a=sample, sample_b=sample):
        seen.take(pair)
        if pair.refusal or pair.same_bits:
            continue
        errors = pair.errors()
        level = floor.level(pair.key.tap, pair.key.layer)
        if bit is None and errors.bits_differ is not None and errors.bits_differ.any():
            bit = _divergence(pair, errors, errors.bits_differ, level, bars)
        beyond = ~(errors.relative_l2 <= level)
        if beyond.any():
            state = _divergence(pair, errors, beyond, level, bars)
            break
    limits = (*_missing(a, b, steps, sample), *seen.limits(a.records[sample].prompt_length))
    return Search(state, bit, seen.tensors, seen.rows, limits)


@dataclass
class _Seen:
    """What the walk has come across so far."""

    tensors: int = 0
    rows: int = 0
    refusals: set[str] = field(default_factory=set)
    dtypes: set[tuple[str, str]] = field(default_factory=set)
    only_a: set[tuple[Tap, int]] = field(default_factory=set)
    only_b: set[tuple[Tap, int]] = field(default_factory=set)

    def take(self, pair: TensorPair) -> None:
        """Count one tensor."""
        if pair.refusal:
            self.refusals.add(pair.refusal)
            return
        self.tensors += 1
        self.rows += pair.a.positions.size
        tap = pair.key.tap
        self.only_a |= {(tap, position) for position in pair.only_a.tolist()}
        self.only_b |= {(tap, position) for position in pair.only_b.tolist()}
        if pair.a.values.dtype != pair.b.values.dtype:
            self.dtypes.add((pair.a.dtype, pair.b.dtype))

    def limits(self, prompt_length: int) -> Iterator[str]:
        """What could not be compared, in words."""
        yield from sorted(self.refusals)
        for mine, theirs in sorted(self.dtypes):
            yield f"values are {mine} and {theirs}: numbers are compared, bits are not"
        for name, rows in (("A", self.only_a), ("B", self.only_b)):
            for tap in sorted({tap for tap, _ in rows}):
                positions = sorted(p - prompt_length for t, p in rows if t is tap)
                yield (
                    f"only {name} has the {_TAPS[tap]} of some positions in some steps: "
                    f"{_spans(positions, prompt_length)}"
                )


def _missing(
    a: Trace, b: Trace, steps: Sequence[tuple[StepRecord, StepRecord]], sample: int
) -> Iterator[str]:
    """Kinds of tensors that only one trace has of these steps."""
    mine, theirs = (
        Counter(key.tap for key in trace.keys(sample) if key.forward in forwards)
        for trace, forwards in (
            (a, {step.forward for step, _ in steps}),
            (b, {step.forward for _, step in steps}),
        )
    )
    if not mine and not theirs:
        yield "neither trace has tensors of these steps: states and bits are not compared"
    for tap in sorted({*mine, *theirs} - OF_ATTENTION):
        if not (mine[tap] and theirs[tap]):
            yield f"only {'A' if mine[tap] else 'B'} has {_TAPS[tap]}: they are not compared"


def _spans(positions: Sequence[int], prompt_length: int) -> str:
    """``prompt tokens 0 to 4, new tokens 0 to 3, 7``; what is negative stands in the prompt."""
    prompt = [position + prompt_length for position in positions if position < 0]
    new = [position for position in positions if position >= 0]
    named = (("prompt tokens", prompt), ("new tokens", new))
    return ", ".join(f"{name} {_ranges(found)}" for name, found in named if found)


def _ranges(numbers: Sequence[int]) -> str:
    """``0 to 3, 7`` for 0, 1, 2, 3, 7."""
    spans = list[list[int]]()
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{i}" if i == j else f"{i} to {j}" for i, j in spans)


def _divergence(
    pair: TensorPair,
    errors: RowErrors,
    differs: np.ndarray,
    level: float,
    bars: tuple[float | None, float | None],
) -> TensorDivergence:
    i = int(differs.argmax())
    return TensorDivergence(
        block=pair.step_a.block,
        step=pair.step_a.step,
        forward_a=pair.step_a.forward,
        forward_b=pair.step_b.forward,
        tap=pair.key.tap,
        layer=pair.key.layer,
        position=int(errors.positions[i]),
        positions=tuple(errors.positions[differs].tolist()),
        relative_l2=finite(errors.relative_l2[i]),
        floor=level,
        cosine=finite(errors.cosine[i]),
        norm_ratio=finite(errors.norm_ratio[i]),
        kl=finite_or_none(errors.kl, i),
        largest_log_ratio=finite_or_none(errors.largest_log_ratio, i),
        top1_flip=None if errors.top1_flip is None else bool(errors.top1_flip[i]),
        a=_provenance(pair.a, i, bars[0]),
        b=_provenance(pair.b, i, bars[1]),
    )


def _provenance(rows: TensorRows, i: int, bar: float | None) -> Provenance:
    return Provenance(
        source=Source(rows.source[i]).name.lower(),
        age=int(rows.age[i]),
        score=finite(rows.score[i]),
        threshold=bar,
    )


def _bar(record: RunRecord) -> float | None:
    """What the skip policy of a run holds rows against; None if that is not known here."""
    policy = SKIP.recorded(record.header.settings)
    return None if policy is None or policy.bar is None else policy.bar.value
