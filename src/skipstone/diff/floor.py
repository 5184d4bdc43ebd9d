"""The noise floor: how far a run moves when only things change that should not matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from skipstone.diff.align import Alignment, align_steps
from skipstone.diff.states import tensor_pairs
from skipstone.errors import ConfigError
from skipstone.quoting import shown
from skipstone.record.candidates import Candidates
from skipstone.record.schema import Header, RunRecord, StepRecord
from skipstone.record.tensors import Tap
from skipstone.record.trace import Trace
from skipstone.sentence import Sentence

FACTOR = 4.0
"""A floor is this many times the largest difference that was measured or expected."""

# Logits of a trained model spread over a few units; an error in them is that much larger than a
# relative one. Where a probability of one half changes fastest, it moves by a quarter of that.
_LOGIT_SCALE = 8.0
_STEEPEST = 0.25
# What float32 projections can tell apart.
_SKETCH_RESOLUTION = 1e-6
# Sums of these dtypes are taken in float32.
_SHORT = ("bfloat16", "float16")


@dataclass(frozen=True)
class Floor:
    """What noise can do to states and decisions. The factor is already in every number."""

    levels: Mapping[tuple[Tap, int], float]
    """Relative L2 error of a row, by tap and layer: the largest over all positions."""
    smallest: float
    """Floor of the floors, from the dtype's epsilon; also used for taps that were not measured."""
    gap: float
    """Of the difference between the logits of a candidate and its runner-up."""
    confidence: float
    similarity: float
    measured: tuple[str, ...] = ()
    """Variations that were measured; empty if this is an estimate from the dtype."""
    flips: Mapping[str, int] = field(default_factory=dict)
    """Steps in which each variation alone decided otherwise."""
    steps: int = 0
    """Steps of self-runs that were compared, over all variations."""
    candidates: Mapping[tuple[int, int], float] = field(default_factory=dict)
    """Of the confidence of single candidates, by the baseline's forward and position."""
    factor: float = FACTOR

    def level(self, tap: Tap, layer: int) -> float:
        """The largest relative error that noise can explain."""
        if tap is Tap.SKETCH:
            return max(self.level(Tap.STATE, layer), _SKETCH_RESOLUTION)
        return max(self.levels.get((tap, layer), 0.0), self.smallest)

    def confidence_at(self, forward: int, position: int) -> float:
        """What noise does to the confidence of one candidate; to any, if it was not measured."""
        found = self.candidates.get((forward, position))
        return self.confidence if found is None else max(found, self.smallest)

    @property
    def flip_rate(self) -> float:
        """Share of the steps of self-runs that decided otherwise; 0 if none was made."""
        return sum(self.flips.values()) / self.steps if self.steps else 0.0

    @property
    def said(self) -> Sentence:
        """How it is known, in words."""
        if not self.measured:
            return Sentence("noise floor estimated from the dtype, not measured")
        return Sentence(
            "noise floor measured over {runs} self-runs, which decide otherwise in {flipped} of "
            "{steps} steps",
            runs=len(self.measured),
            flipped=sum(self.flips.values()),
            steps=self.steps,
        )

    def __str__(self) -> str:
        return self.said

    def __repr__(self) -> str:
        return f"<Floor: {self}>"

    def as_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "measured": list(self.measured),
            "factor": self.factor,
            "smallest": self.smallest,
            "gap": self.gap,
            "confidence": self.confidence,
            "similarity": self.similarity,
            "levels": [
                {"tap": tap.value, "layer": layer, "relative_l2": level}
                for (tap, layer), level in sorted(self.levels.items())
            ],
            "flips": dict(self.flips),
            "steps": self.steps,
            "flip_rate": self.flip_rate,
        }


def estimated_floor(header: Header) -> Floor:
    """A floor from the dtype alone, where nothing could be run again.

    Each layer rounds its result once to the dtype, and its sums while they are taken. These errors
    are independent, so they grow with the root of the number of values and of layers.
    """
    sums = "float32" if header.dtype in _SHORT else header.dtype
    layer_error = roundoff(header.dtype) + roundoff(sums) * header.width**0.5
    levels = {
        (tap, layer): FACTOR * layer_error * (layer + 1) ** 0.5
        for tap in (Tap.STATE, Tap.KEY, Tap.VALUE, Tap.LOGITS)
        for layer in range(header.num_layers + 1)
    }
    last = levels[Tap.LOGITS, header.num_layers]
    gap = _LOGIT_SCALE * last
    return Floor(
        levels=levels,
        smallest=FACTOR * roundoff(header.dtype),
        gap=gap,
        confidence=min(1.0, _STEEPEST * gap),
        similarity=last,
    )


def floor_from(baseline: Trace, variations: Sequence[tuple[str, Trace]], sample: int = 0) -> Floor:
    """Measure a floor from runs that differ only in what should not matter.

    Steps are compared where they saw the same canvas: all of them, if the variations were
    teacher-forced on the baseline's canvases.

    Args:
        baseline: the plain run.
        variations: name and run each; of each the first sample of the baseline's prompt counts.
        sample: which sample of the baseline.

    Raises:
        ConfigError: a variation has no sample of the baseline's prompt.
    """
    record = baseline.records[sample]
    levels, flips = dict[tuple[Tap, int], float](), dict[str, int]()
    moved = list[_Moved]()
    for name, trace in variations:
        other = _same_prompt(record, trace, name)
        steps = Alignment(align_steps(record.steps, trace.records[other].steps)).comparable
        flips[name] = sum(a.committed != b.committed for a, b in steps)
        for pair in tensor_pairs(baseline, trace, steps, sample_a=sample, sample_b=other):
            place = (pair.key.tap, pair.key.layer)
            error = pair.errors().relative_l2
            # An error that is no number says nothing about noise.
            worst = float(error[np.isfinite(error)].max(initial=0.0))
            levels[place] = max(levels.get(place, 0.0), FACTOR * worst)
        moved += [_moved(a, b) for a, b in steps]
    smallest = FACTOR * roundoff(record.header.dtype)
    gap = FACTOR * max((m.gap for m in moved), default=0.0)
    confidence = FACTOR * max((m.confidence for m in moved), default=0.0)
    similarity = FACTOR * max((m.similarity for m in moved), default=0.0)
    return Floor(
        levels=levels,
        smallest=smallest,
        gap=max(gap, _LOGIT_SCALE * smallest),
        confidence=max(confidence, smallest),
        similarity=max(similarity, smallest),
        measured=tuple(name for name, _ in variations),
        flips=flips,
        steps=len(moved),
        candidates=_largest(m.candidates for m in moved),
    )


def roundoff(dtype: str) -> float:
    """Largest relative error of rounding to a dtype: half its epsilon."""
    return float(ml_dtypes.finfo(np.dtype(dtype)).eps) / 2


def logit_gap(candidates: Candidates) -> np.ndarray:
    """float64 [C]: logit of each token minus logit of its runner-up.

    Confidences near 1 hide what moved; their logits do not.
    """
    tiny = np.finfo(np.float64).tiny
    top = np.log(np.maximum(candidates.confidence, tiny))
    return top - np.log(np.maximum(candidates.runner_up_confidence, tiny))


def confidence_apart(a: StepRecord, b: StepRecord) -> np.ndarray:
    """float64 [C]: how far confidences of the tokens that both steps would take are apart."""
    i, j = _same_tokens(a.candidates, b.candidates)
    return np.abs(a.candidates.confidence[i] - b.candidates.confidence[j])


def _same_tokens(mine: Candidates, theirs: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """Which candidates stand at one position with one token, as indices into each."""
    _, i, j = np.intersect1d(mine.position, theirs.position, return_indices=True)
    same = mine.token[i] == theirs.token[j]
    return i[same], j[same]


@dataclass(frozen=True)
class _Moved:
    """The largest changes in one step."""

    gap: float
    confidence: float
    similarity: float
    candidates: Mapping[tuple[int, int], float]


def _same_prompt(record: RunRecord, trace: Trace, name: str) -> int:
    for sample, other in enumerate(trace.records):
        if other.header.prompt_ids == record.header.prompt_ids:
            return sample
    raise ConfigError(
        f"variation {shown(name)} has no sample of the baseline's prompt; run it on the same prompt"
    )


def _moved(a: StepRecord, b: StepRecord) -> _Moved:
    mine, theirs = a.candidates, b.candidates
    i, j = _same_tokens(mine, theirs)
    gap = np.abs(logit_gap(mine)[i] - logit_gap(theirs)[j])
    confidence = confidence_apart(a, b)
    places = [(a.forward, position) for position in mine.position[i].tolist()]
    return _Moved(
        gap=float(gap.max(initial=0.0)),
        confidence=float(confidence.max(initial=0.0)),
        similarity=_similarity_moved(a, b),
        candidates=dict(zip(places, (FACTOR * confidence).tolist(), strict=True)),
    )


def _similarity_moved(a: StepRecord, b: StepRecord) -> float:
    if a.judgements is None or b.judgements is None:
        return 0.0
    mine, theirs = a.judgements.similarity, b.judgements.similarity
    if not np.array_equal(a.judgements.position, b.judgements.position):
        return 0.0
    return float(np.abs(mine - theirs).max(initial=0.0)) if mine.shape == theirs.shape else 0.0


def _largest(maps: Iterable[Mapping[tuple[int, int], float]]) -> dict[tuple[int, int], float]:
    found = dict[tuple[int, int], float]()
    for values in maps:
        for place, value in values.items():
            found[place] = max(value, found.get(place, 0.0))
    return found
