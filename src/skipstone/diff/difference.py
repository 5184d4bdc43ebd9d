"""Everything in which two traces of one prompt differ: decisions, states, bits, and the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import get_args

import numpy as np

from skipstone.diff.align import Alignment, How, Pair, align
from skipstone.diff.compare import differing_positions, tokens_differ
from skipstone.diff.divergence import Divergence, first_decision
from skipstone.diff.floor import Floor, estimated_floor
from skipstone.diff.margins import Closeness, closeness
from skipstone.diff.tensor_search import Search, TensorDivergence, search
from skipstone.errors import ConfigError
from skipstone.kinds import of_kind
from skipstone.record.schema import RunRecord
from skipstone.record.settings import plain
from skipstone.record.trace import Trace


@dataclass(frozen=True)
class SettingDifference:
    """Something about the two runs that is not the same; empty text where one does not state it."""

    name: str
    a: str
    b: str


@dataclass(frozen=True)
class Ending:
    """The answer of one run."""

    text: str | None
    """Up to EOS; None if the run is unfinished."""
    eos: int | None
    """The first EOS, counted from the first new token; None if there is none."""
    length: int
    """Tokens before EOS that are no masks."""
    masks_left: int
    forwards: int


@dataclass(frozen=True, eq=False)
class Difference:
    """Two runs of one prompt, and all that is different about them."""

    a: RunRecord
    b: RunRecord
    alignment: Alignment
    decision: Divergence | None
    """The first decision that differs."""
    closeness: Closeness | None
    """How close that decision was; None if there is none."""
    tensors: Search
    """The first state beyond the noise, the first bit, and what was looked at."""
    floor: Floor
    differing_positions: tuple[int, ...]
    """Absolute positions whose final tokens differ, as far as both runs went."""
    settings: tuple[SettingDifference, ...]
    """What is not the same about the runs themselves."""

    def __repr__(self) -> str:
        first = "no decision differs" if self.decision is None else f"first {self.decision!r}"
        return f"<Difference: {first}, {tokens_differ(len(self.differing_positions))}>"

    @property
    def state(self) -> TensorDivergence | None:
        """The first row of a tensor that differs by more than noise can explain."""
        return self.tensors.state

    @property
    def bit(self) -> TensorDivergence | None:
        """The first row of a tensor that is not equal bit for bit."""
        return self.tensors.bit

    @property
    def finished(self) -> bool:
        """Whether both runs came to their end."""
        return self.a.outcome is not None and self.b.outcome is not None

    @property
    def identical(self) -> bool:
        """Same tokens by the same decisions, from the first step to the end of both runs."""
        return (
            self.finished
            and not self.a.holes
            and not self.b.holes
            and self.decision is None
            and not self.differing_positions
        )

    @property
    def endings(self) -> tuple[Ending, Ending]:
        """The answers of A and B."""
        return _ending(self.a), _ending(self.b)

    @property
    def answer_differs(self) -> bool:
        """Whether a reader sees another answer: the text up to EOS, or how it ends."""
        a, b = self.endings
        if a.text is None or b.text is None:
            return bool(self.differing_positions)
        return a.text != b.text or a.masks_left != b.masks_left

    def as_json(self) -> dict[str, object]:
        """Plain data, as docs/schema/diff.schema.json describes it."""
        start = self.a.prompt_length
        return {
            "schema": 1,
            "identical": self.identical,
            "finished": self.finished,
            "decision": None if self.decision is None else self.decision.as_json(start),
            "closeness": None if self.closeness is None else self.closeness.as_json(),
            "state": None if self.state is None else self.state.as_json(start),
            "bit": None if self.bit is None else self.bit.as_json(start),
            "differing_positions": [p - start for p in self.differing_positions],
            "answer_differs": self.answer_differs,
            "a": asdict(self.endings[0]),
            "b": asdict(self.endings[1]),
            "settings": [self._plain(setting) for setting in self.settings],
            "floor": self.floor.as_json(),
            "counts": self._counts(),
            "not_comparable": self._not_comparable(),
            "limits": [*self.alignment.limits, *self.tensors.limits],
        }

    def _plain(self, setting: SettingDifference) -> dict[str, object]:
        """A setting of the decoding as number, bool or None; a fingerprint of digits stays text."""
        decoding = setting.name in {**self.a.header.settings, **self.b.header.settings}
        a, b = (plain(text) if decoding else text for text in (setting.a, setting.b))
        return {"name": setting.name, "a": a, "b": b}

    def _counts(self) -> dict[str, int]:
        by_how = {how: self.alignment.count(how) for how in get_args(How)}
        alone = by_how.pop("alone") + by_how.pop("writes")
        return {
            "steps_a": len(self.a.steps),
            "steps_b": len(self.b.steps),
            **{f"aligned_by_{how}": n for how, n in by_how.items()},
            "unmatched": alone,
            "tensors": self.tensors.tensors,
            "rows": self.tensors.rows,
            "tokens_differing": len(self.differing_positions),
        }

    def _not_comparable(self) -> list[dict[str, object]]:
        return [
            {"a": _place(pair, "a"), "b": _place(pair, "b"), "reason": pair.reason}
            for pair in self.alignment.pairs
            if pair.reason
        ]


def diff(a: Trace, b: Trace, *, sample: int = 0, floor: Floor | None = None) -> Difference:
    """Compare two traces of one prompt.

    Args:
        a: the baseline.
        b: the other run.
        sample: which request of both, by its index.
        floor: noise; estimated from the dtype if None.

    Raises:
        ConfigError: a trace has no such sample, or the prompts or vocabularies differ.
    """
    run_a, run_b = sample_of(a, sample, "A"), sample_of(b, sample, "B")
    alignment = align(run_a, run_b)
    floor = estimated_floor(run_a.header) if floor is None else floor
    decided = list(_as_far_as_both_go(alignment.pairs, run_a, run_b))
    first = first_decision(decided)
    return Difference(
        a=run_a,
        b=run_b,
        alignment=alignment,
        decision=first,
        closeness=None if first is None else _closeness(first, decided, floor),
        tensors=search(a, b, alignment.comparable, floor, sample=sample),
        floor=floor,
        differing_positions=_final_differences(run_a, run_b),
        settings=tuple(_settings(run_a, run_b)),
    )


def sample_of(trace: Trace, sample: int, name: str) -> RunRecord:
    """One request of a trace.

    Raises:
        ConfigError: it has no such sample.
    """
    of_kind("sample", sample, Integral, "a whole number, 0 for the first")
    count = len(trace.records)
    if not 0 <= sample < count:
        raise ConfigError(f"sample is {sample}, but trace {name} has {count}; samples count from 0")
    return trace.records[sample]


def _as_far_as_both_go(pairs: Iterable[Pair], a: RunRecord, b: RunRecord) -> Iterable[Pair]:
    """Leave out what only one run has because the other lost it, which is no decision."""
    lost_a, lost_b = _loses_after(a), _loses_after(b)
    reached_a = reached_b = -1
    for pair in pairs:
        if pair.a is None and reached_a in lost_a:
            continue
        if pair.b is None and reached_b in lost_b:
            continue
        reached_a = reached_a if pair.a is None else pair.a.forward
        reached_b = reached_b if pair.b is None else pair.b.forward
        yield pair


def _loses_after(run: RunRecord) -> set[int]:
    """Forwards after which a run has steps that its record lacks; -1 stands for its beginning."""
    lost = {hole.after for hole in run.holes}
    if run.outcome is None:
        lost.add(run.steps[-1].forward if run.steps else -1)
    return lost


def _closeness(first: Divergence, pairs: list[Pair], floor: Floor) -> Closeness:
    a = {pair.a.forward: pair.a for pair in pairs if pair.a is not None}
    b = {pair.b.forward: pair.b for pair in pairs if pair.b is not None}
    return closeness(first, a.get(first.forward_a), b.get(first.forward_b), floor)


def _final_differences(a: RunRecord, b: RunRecord) -> tuple[int, ...]:
    """Positions whose final tokens differ; of an unfinished run, only those it has filled."""
    differing = set(differing_positions(a, b))
    for run in (a, b):
        if run.outcome is None:
            tokens = np.array(run.tokens)
            masked = np.flatnonzero(tokens == run.header.mask_id) + run.prompt_length
            differing -= set(masked.tolist())
    return tuple(sorted(differing))


def _ending(run: RunRecord) -> Ending:
    header, tokens = run.header, run.tokens
    eos = next((i for i, token in enumerate(tokens) if token == header.eos_id), None)
    answer = Counter(tokens[:eos])
    outcome = run.outcome
    masks = Counter(tokens)[header.mask_id] if outcome is None else outcome.masks_left
    return Ending(
        text=None if outcome is None else outcome.text,
        eos=eos,
        length=answer.total() - answer[header.mask_id],
        masks_left=masks,
        forwards=len(run.steps),
    )


def _settings(a: RunRecord, b: RunRecord) -> Iterable[SettingDifference]:
    """Differences of the headers, the settings of the run first."""
    mine, theirs = _stated(a), _stated(b)
    for name in [*mine, *(name for name in theirs if name not in mine)]:
        if mine.get(name, "") != theirs.get(name, ""):
            yield SettingDifference(name, mine.get(name, ""), theirs.get(name, ""))


def _stated(run: RunRecord) -> dict[str, str]:
    header = run.header
    plain = ("model", "weights", "dtype", "device", "source", "batch", "num_layers", "width")
    groups: dict[str, Mapping[str, str]] = {
        "stated": header.stated,
        "environment": header.environment,
        "versions": header.versions,
    }
    return {
        **header.settings,
        "gen_length": str(header.gen_length),
        **{name: str(getattr(header, name)) for name in plain},
        **{f"{group}.{n}": text for group, texts in groups.items() for n, text in texts.items()},
    }


def _place(pair: Pair, side: str) -> dict[str, object] | None:
    step = pair.a if side == "a" else pair.b
    if step is None:
        return None
    return {"forward": step.forward, "block": step.block, "step": step.step}
