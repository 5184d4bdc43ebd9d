"""A case: two runs of one prompt, and everything that rules want to know about them.

What is expensive is worked out once, when a rule first asks. ``None`` means that it cannot be known
here: a tensor was not recorded, a model is not at hand, the time is spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from skipstone.diagnosis.beside import Beside
from skipstone.diagnosis.deviation import (
    Deviation,
    decision_deviations,
    errors,
    tensor_deviations,
)
from skipstone.diagnosis.experiment import (
    VARIATIONS,
    Choice,
    Experiment,
    Follow,
    Lab,
    Patch,
    Rerun,
    Side,
    Spent,
    Unavailable,
    Variation,
)
from skipstone.diff import Comparison, Divergence, Floor, compare, estimated_floor, floor_from
from skipstone.record import Event, RunRecord, StepRecord, Tap, TensorKey, Trace
from skipstone.sentence import NOTHING, Sentence

_LED: frozenset[Choice] = frozenset(("rows", "skip"))
_FREE: frozenset[Choice] = frozenset()
# What only a commit rule can say.
_RULED = frozenset(("commit", "end"))


@dataclass(eq=False)
class Case:
    """Two traces, and the means to experiment on them."""

    a: Trace
    """The baseline."""
    b: Trace
    """The run to explain."""
    lab: Lab | None = None
    sample_a: int = 0
    sample_b: int = 0
    unavailable: list[Sentence] = field(default_factory=list)
    """Why experiments could not be made."""
    spent: bool = False
    """Whether time ran out."""

    @cached_property
    def record_a(self) -> RunRecord:
        """The baseline's record."""
        return self.a.records[self.sample_a]

    @cached_property
    def record_b(self) -> RunRecord:
        """The record to explain."""
        return self.b.records[self.sample_b]

    @cached_property
    def comparison(self) -> Comparison:
        """Decision by decision."""
        return compare(self.record_a, self.record_b)

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """What was seen in passing in B."""
        return self.record_b.events

    def told(self, *kinds: str) -> Event | None:
        """The first event of some kinds, unless B went wrong before it."""
        first = self.first_deviation
        for event in self.events:
            if event.kind in kinds and (first is None or event.forward <= first.step.forward):
                return event
        return None

    @cached_property
    def foreign(self) -> bool:
        """Whether B was made by other code, whose settings are not ours to read."""
        return self.record_b.header.source != "skipstone"

    @cached_property
    def settings_differ(self) -> dict[str, tuple[str, str]]:
        """Settings by name that are not the same on both sides."""
        a, b = self.record_a.header.settings, self.record_b.header.settings
        if self.foreign or self.record_a.header.source != "skipstone":
            return {}
        return {name: (a[name], b[name]) for name in a if name in b and a[name] != b[name]}

    def ask(self, experiment: Experiment) -> Trace | None:
        """The result of an experiment, or None if it cannot be made; the reason is kept."""
        if self.lab is None:
            return None
        try:
            return self.lab.ask(experiment)
        except Unavailable as reason:
            self.spent |= isinstance(reason, Spent)
            if reason.why not in self.unavailable:
                self.unavailable.append(reason.why)
            return None

    # --- where the decisions part ---------------------------------------------------------------

    @cached_property
    def parted_at(self) -> int | None:
        """The forward of B in which the decisions part; None if they never do."""
        first = self.comparison.first
        if first is None:
            return None
        for step in self.record_b.steps:
            if (step.block, step.step) == (first.block, first.step):
                return step.forward
        return self.record_b.steps[-1].forward if self.record_b.steps else None

    @cached_property
    def horizon(self) -> int:
        """The last forward of B that can hold the cause: later ones only inherit."""
        last = self.record_b.steps[-1].forward
        return last if self.parted_at is None else min(self.parted_at, last)

    def step_b(self, forward: int) -> StepRecord | None:
        """A step of B."""
        return next((s for s in self.record_b.steps if s.forward == forward), None)

    def same_step_a(self, step: StepRecord) -> StepRecord | None:
        """The step of A that started from the same canvas at the same place."""
        for other in self.record_a.steps:
            same_place = (other.block, other.step, other.recovery) == (
                step.block,
                step.step,
                step.recovery,
            )
            if same_place and other.canvas == step.canvas:
                return other
        return None

    # --- what noise can do ----------------------------------------------------------------------

    @cached_property
    def floor(self) -> Floor:
        """Noise, measured around the divergence if the model is here, else estimated."""
        plain = self._noisy("")
        varied = [(name, trace) for name in VARIATIONS if (trace := self.varied(name)) is not None]
        if plain is None or not varied:
            return estimated_floor(self.record_a.header)
        return floor_from(plain, varied)

    def varied(self, variation: Variation) -> Trace | None:
        """A, led along its own canvases, with one thing changed that should not matter."""
        return self._noisy(variation)

    def _noisy(self, variation: Variation) -> Trace | None:
        led = _FREE if self._stated else _LED
        return self.ask(Follow("a", "a", self._noise_window, led=led, variation=variation))

    @cached_property
    def _noise_window(self) -> tuple[int, int]:
        steps = self.record_a.steps
        first = self.comparison.first
        at = 1
        if first is not None:
            known = [s.forward for s in steps if (s.block, s.step) <= (first.block, first.step)]
            at = max(known, default=0)
        last = steps[-1].forward
        return max(0, min(at, last) - 1), min(at, last)

    def self_runs(self, side: Side, attempts: int = 2) -> list[Divergence | None]:
        """Where repetitions of a side part from its trace, up to where A and B part.

        None for a repetition that does not part.
        """
        record = self.record_a if side == "a" else self.record_b
        if record.header.batch > 1:
            # A run repeats one prompt alone, which says nothing about the same batch again.
            return []
        runs = (Rerun(side, attempt=n + 1, until=self.until) for n in range(attempts))
        traces = [trace for run in runs if (trace := self.ask(run)) is not None]
        return [self.earlier(compare(record, t.records[0]).first) for t in traces]

    @property
    def until(self) -> int | None:
        """How far runs have to be repeated: up to where A and B part, if they do."""
        first = self.comparison.first
        # One more, so that a step that has to be repeated is seen with its repetition.
        return None if first is None else max(first.forward_a, first.forward_b) + 1

    def earlier(self, other: Divergence | None) -> Divergence | None:
        """A divergence, unless it comes after the one between A and B."""
        first = self.comparison.first
        if first is None or other is None:
            return other
        return None if (other.block, other.step) > (first.block, first.step) else other

    def repeatable(self, side: Side) -> bool:
        """Whether a side can be run again and then decides as its trace does."""
        firsts = self.self_runs(side)
        return bool(firsts) and all(first is None for first in firsts)

    # --- what B should have done ----------------------------------------------------------------

    @cached_property
    def _settings(self) -> Side:
        """Whose settings say what B should do: its own, if it states any that we can read."""
        return "a" if self.foreign else "b"

    @cached_property
    def _stated(self) -> bool:
        """Whether these settings are known: foreign code does not state its own."""
        return not self.foreign or self.record_a.header.source == "skipstone"

    @cached_property
    def expected(self) -> Trace | None:
        """B's canvases under its own settings, as the reference engine decides on them.

        For foreign code whose settings nobody states, and where there is no model: as A did.
        """
        led = None
        if self._stated:
            led = self.ask(Follow("b", self._settings, (0, self.horizon), tensors=False))
        return self._beside if led is None and self.foreign else led

    @cached_property
    def _beside(self) -> Trace:
        """A's own steps, where B started from the same canvas."""
        pairs = ((self.same_step_a(step), step) for step in self.record_b.steps)
        return Beside.of(self.a, self.sample_a, [(a, b) for a, b in pairs if a is not None])

    @cached_property
    def deviations(self) -> tuple[Deviation, ...]:
        """What B decided or scored otherwise than its settings say, in order; up to the horizon."""
        if self.expected is None:
            return ()
        found = decision_deviations(self.record_b, self.expected.records[0], self.floor)
        return tuple(d for d in found if d.step.forward <= self.horizon)

    @cached_property
    def first_deviation(self) -> Deviation | None:
        """The first of them; None if B does what it says."""
        return min(self.deviations, key=lambda d: d.step.forward, default=None)

    @property
    def conforms(self) -> bool:
        """Whether it is known that B does what its settings say."""
        return self.expected is not None and not self.deviations

    def first_of(self, *kinds: str) -> Deviation | None:
        """The first deviation of some kinds in the step of the first deviation."""
        first = self.first_deviation
        if first is None:
            return None
        same = (d for d in self.deviations if d.step.forward == first.step.forward)
        return next((d for d in same if d.kind in kinds), None)

    @cached_property
    def forced(self) -> Sentence:
        """Teacher forcing, in words: how often B's settings decide otherwise on A's canvases.

        Every step starts from A's canvas, so errors cannot add up over decisions.
        """
        last = self.record_a.steps[-1].forward
        trace = self.ask(Follow("a", "b", (0, last), tensors=False))
        if trace is None:
            return NOTHING
        wanted = {s.forward: s.committed for s in trace.records[0].steps}
        other = sum(wanted.get(s.forward, s.committed) != s.committed for s in self.record_a.steps)
        return Sentence(
            "on A's canvases B's settings decide otherwise in {other} of {steps} steps",
            other=other,
            steps=len(wanted),
        )

    # --- tensors of the step in question --------------------------------------------------------

    @cached_property
    def focus(self) -> int:
        """The forward to look into: of the first deviation, else of the divergence."""
        first = self.first_deviation
        return self.horizon if first is None else first.step.forward

    @cached_property
    def tensors_b(self) -> tuple[Trace, int] | None:
        """B with tensors around the focus, and its sample there; run again if that is possible."""
        return self.tensors_at(self.focus)

    def tensors_at(self, forward: int) -> tuple[Trace, int] | None:
        """B with the tensors of one forward."""
        if any(k.forward == forward and k.tap is Tap.STATE for k in self.b.keys(self.sample_b)):
            return self.b, self.sample_b
        again = self.ask(Rerun("b", tensors=(max(0, forward - 1), forward), until=forward))
        if again is None:
            return None
        step, mine = again.records[0].steps, self.step_b(forward)
        same = mine is not None and any(
            s.forward == forward and s.canvas == mine.canvas for s in step
        )
        return (again, 0) if same else None

    @cached_property
    def expected_tensors(self) -> Trace | None:
        """What the tensors of the focus should be, given the rows that B computed and skipped."""
        led = self.ask(Follow("b", self._settings, (self.focus, self.focus), led=_LED))
        same_rows = self.first_of("rows", "skip") is None
        return self._beside if led is None and self.foreign and same_rows else led

    @cached_property
    def away(self) -> tuple[Deviation, ...]:
        """Tensors of the focus that are not what they should be, in order of computation."""
        if self.tensors_b is None or self.expected_tensors is None:
            return ()
        return tuple(self._apart(self.expected_tensors))

    def _apart(self, right: Trace) -> list[Deviation]:
        """Tensors of the focus that are not as in another trace; keys only if both rotate them."""
        assert self.tensors_b is not None
        trace, sample = self.tensors_b
        found = tensor_deviations(trace, sample, right, self.focus, self.floor)
        kinds = {_keys_of(self.record_b), _keys_of(right.records[0])}
        comparable = len(kinds) == 1 and "unknown" not in kinds
        return [d for d in found if comparable or d.kind != "key"]

    @cached_property
    def local(self) -> Trace | None:
        """The focus again, each layer fed with B's own input: what is born here, what inherited."""
        if self.tensors_b is None:
            return None
        return self.ask(
            Follow(
                "b",
                self._settings,
                (self.focus, self.focus),
                led=_LED,
                patches=tuple(self._inputs()),
                patch_name="each layer fed with B's recorded input",
            )
        )

    @cached_property
    def born(self) -> tuple[Deviation, ...]:
        """Tensors of the focus that are wrong although what they were computed from is B's own."""
        if self.tensors_b is None:
            return ()
        if self.local is None:
            # Up to the first layer that is wrong, both sides had the same inputs.
            return tuple(d for d in self.away if d.layer == self.away[0].layer)
        found = self._apart(self.local)
        step = self.step_b(self.focus)
        cached = np.setdiff1d(np.arange(self.record_b.length), step.rows if step else [])
        return tuple(
            d
            for d in found
            if not (d.kind in ("key", "value") and np.isin(d.positions, cached).all())
        )

    @cached_property
    def cached_wrong(self) -> tuple[Deviation, ...]:
        """Keys and values that B read from its cache and that are not what they should be."""
        step = self.step_b(self.focus)
        if step is None:
            return ()
        found = list[Deviation]()
        for deviation in self.away:
            if deviation.kind in ("key", "value"):
                deep = step.skip_layer and (deviation.layer or 0) >= step.skip_layer
                fresh = step.finished if deep else step.rows
                old = np.setdiff1d(deviation.positions, fresh)
                if old.size:
                    found.append(replace(deviation, positions=old))
        return tuple(found)

    @cached_property
    def causal_pattern(self) -> bool:
        """Whether errors of the first layer vanish at the last row, as under a causal mask."""
        step = self.step_b(self.focus)
        states = [d for d in self.born if d.kind == "state" and d.layer == 1]
        if not states or step is None or step.rows.size < 2:
            return False
        last = int(step.rows.max())
        sees_all = last == self.record_b.length - 1
        return sees_all and last not in states[0].positions and states[0].positions.size > 1

    def _inputs(self) -> list[Patch]:
        """B's recorded states after every layer, and the keys and values that it read as cached."""
        assert self.tensors_b is not None
        trace, sample = self.tensors_b
        step = self.step_b(self.focus)
        patches = list[Patch]()
        for key in trace.keys(sample):
            tensor = trace.tensor(sample, key) if key.forward == self.focus else None
            if tensor is None or key.tap in (Tap.LOGITS, Tap.SKETCH):
                continue
            if key.tap is Tap.KEY and _keys_of(self.record_b) != "rotated":
                continue
            positions, values = tensor.positions, tensor.values
            if key.tap is not Tap.STATE:
                deep = step is not None and step.skip_layer and key.layer >= step.skip_layer
                fresh = () if step is None else (step.finished if deep else step.rows)
                old = ~np.isin(positions, fresh)
                positions, values = positions[old], values[old]
            elif key.layer == self.record_b.header.num_layers:
                continue
            if positions.size:
                patches.append(Patch(key.tap, key.forward, key.layer, positions, values))
        return patches

    def reference_tensors(self, forward: int) -> Trace | None:
        """The tensors of an earlier forward, as the reference engine computes them."""
        return self.ask(Follow("b", self._settings, (forward, forward)))

    # --- proof ----------------------------------------------------------------------------------

    def recorded(self, deviations: Sequence[Deviation]) -> tuple[Patch, ...]:
        """B's own values where tensors deviate, ready to be brought into another run."""
        if self.tensors_b is None:
            return ()
        trace, sample = self.tensors_b
        where = dict[TensorKey, np.ndarray]()
        for d in deviations:
            if d.layer is not None and d.kind in ("state", "key", "value", "logits"):
                key = TensorKey(d.step.forward, Tap(d.kind), d.layer)
                where[key] = np.union1d(where.get(key, d.positions), d.positions)
        patches = list[Patch]()
        for key, positions in where.items():
            tensor = trace.tensor(sample, key)
            if tensor is not None:
                patches.append(
                    Patch(key.tap, key.forward, key.layer, positions, tensor.at(positions))
                )
        return tuple(patches)

    @cached_property
    def fault_removed(self) -> bool | None:
        """Whether the reference engine, on B's canvases, decides and scores as A did.

        That is what taking the fault away gives: the last step before the runs part is compared.
        """
        if not self._stated:
            return self._reference_scores_as_a
        if self.expected is None or self.expected is self._beside:
            return None
        steps = {s.forward: s for s in self.expected.records[0].steps}
        for step in reversed(self.record_b.steps):
            other, right = self.same_step_a(step), steps.get(step.forward)
            if other is not None and right is not None and step.forward <= self.horizon:
                return other.committed == right.committed
        return None

    @cached_property
    def _reference_scores_as_a(self) -> bool | None:
        """Whether the reference engine, told only which rows A computed, scores the focus as A."""
        step = self.step_b(self.focus)
        other = None if step is None else self.same_step_a(step)
        if other is None:
            return None
        window = (other.forward, other.forward)
        trace = self.ask(Follow("a", "a", window, led=_LED, tensors=False))
        return None if trace is None else self._same(self.record_a, other, trace)

    @cached_property
    def rows_reproduce(self) -> bool | None:
        """Whether the reference engine, told only which rows to compute, scores as B did."""
        window = (self.focus, self.focus)
        led = Follow("b", self._settings, window, led=_LED, tensors=False)
        return self.reproduces(self.ask(led))

    def with_only(self, deviations: Sequence[Deviation], name: str) -> bool | None:
        """Whether these tensors of B alone, brought into the reference run, score as B did."""
        patches = self.recorded(deviations)
        if not patches:
            return None
        window = (self.focus, self.focus)
        led = Follow("b", self._settings, window, led=_LED, patches=patches, patch_name=name)
        return self.reproduces(self.ask(led))

    def reproduces(self, trace: Trace | None) -> bool | None:
        """Whether a led run scores the focus as B did, within noise; None if it is not known."""
        step = self.step_b(self.focus)
        if trace is None or step is None:
            return None
        return self._same(self.record_b, step, trace)

    def _same(self, record: RunRecord, step: StepRecord, trace: Trace) -> bool | None:
        """Whether a led run gives a recorded step, within noise; commits if their rule is known."""
        other = next((s for s in trace.records[0].steps if s.forward == step.forward), None)
        if other is None:
            return None
        mine, theirs = _only(record, step), _only(trace.records[0], other)
        found = decision_deviations(mine, theirs, self.floor)
        return all(d.kind in _RULED and not self._stated for d in found)

    def error(self, expected: Trace, key: TensorKey) -> tuple[np.ndarray, np.ndarray] | None:
        """Relative error of B's tensor by position."""
        if self.tensors_b is None:
            return None
        trace, sample = self.tensors_b
        return errors(trace, sample, expected, key)


def _keys_of(record: RunRecord) -> str:
    """How a record has its keys: ``rotated``, ``unrotated`` or ``unknown``."""
    return record.header.environment.get("keys", "rotated")


def _only(record: RunRecord, step: StepRecord) -> RunRecord:
    return replace(record, steps=(step,))
