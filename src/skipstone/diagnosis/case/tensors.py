"""The tensors of the step in question: which are wrong, where that began, and whose rows they hold.

Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np

from skipstone.diagnosis.case.divergence import Parting
from skipstone.diagnosis.case.expected import CLEARLY, Expected
from skipstone.diagnosis.case.inquiry import Inquiry
from skipstone.diagnosis.case.noise import Noise
from skipstone.diagnosis.case.runs import Runs
from skipstone.diagnosis.deviation import Deviation, tensor_deviations
from skipstone.diagnosis.experiment import Choice, Follow, Keys, Patch, Rerun
from skipstone.record import OF_ATTENTION, RunRecord, StepRecord, Tap, TensorKey, Trace

_LED: frozenset[Choice] = frozenset(("rows", "skip"))

_NO_INPUTS = OF_ATTENTION | {Tap.LOGITS, Tap.UNGUIDED, Tap.SKETCH}
"""What no layer is fed with."""


@dataclass(eq=False)
class ComparedTensors:
    """B's tensors in the focus, beside what they should be."""

    runs: Runs
    inquiry: Inquiry
    divergence: Parting
    noise: Noise
    outcome: Expected
    given: int | None = None
    """The forward to look into, whatever B does elsewhere."""

    @cached_property
    def focus(self) -> int:
        """The forward to look into: of the first deviation, else of the divergence.

        A forward before it that decides nothing shows only in its tensors: if it has read what is
        wrong, or if one that A does not make has written that, it is that one.
        """
        if self.given is not None:
            return self.given
        first = self.outcome.first
        if first is None:
            return next(self._written_wrong(self.divergence.horizon), self.divergence.horizon)
        forward = first.step.forward
        return next(chain(self._read_wrong(forward), self._written_wrong(forward)), forward)

    def _read_wrong(self, forward: int) -> Iterator[int]:
        """Forwards before one that decide nothing, and have read clearly wrong keys or values."""
        for step in self.runs.every_b:
            decides = bool(step.committed) or bool(step.candidates.eligible.any())
            if decides or step.forward >= forward:
                continue
            looked = replace(self, given=step.forward)
            if step.forward in self.runs.writes and looked.expected is self.outcome.paired:
                # A's forward that computes the same rows has read other ones, or none.
                continue
            if any(not d.size <= CLEARLY * d.floor for d in looked.cached_wrong):
                yield step.forward

    def _written_wrong(self, forward: int) -> Iterator[int]:
        """Forwards that only write, and have written wrong what is read in a forward."""
        if not self.runs.writes:
            return
        reading = replace(self, given=forward)
        written = [reading.computed_at(d.layer or 0, d.positions) for d in reading.cached_wrong]
        for writer in sorted(self.runs.writes.keys() & {int(w) for by in written for w in by}):
            if replace(self, given=writer).away:
                yield writer

    @property
    def step(self) -> StepRecord | None:
        """B's step in the focus."""
        return self.runs.step_b(self.focus)

    @property
    def keys(self) -> Keys:
        """How B's keys were recorded."""
        return "unrotated" if _keys_of(self.runs.record_b) == "unrotated" else "rotated"

    # --- B's own --------------------------------------------------------------------------------

    @cached_property
    def recorded(self) -> tuple[Trace, int] | None:
        """B with tensors around the focus, and its sample there; run again if that is possible."""
        return self.at(self.focus)

    def at(self, forward: int) -> tuple[Trace, int] | None:
        """B with the tensors of one forward, and its sample there."""
        b, sample = self.runs.b, self.runs.sample_b
        if any(k.forward == forward and k.tap is Tap.STATE for k in b.keys(sample)):
            return b, sample
        window = (max(0, forward - 1), forward)
        again = self.inquiry.ask(Rerun("b", tensors=window, until=forward))
        if again is None:
            return None
        steps, mine = again.records[0].steps, self.runs.step_b(forward)
        same = mine is not None and any(
            s.forward == forward and s.canvas == mine.canvas for s in steps
        )
        return (again, 0) if same else None

    def patches(self, deviations: Sequence[Deviation]) -> tuple[Patch, ...]:
        """B's own values where tensors deviate, ready to be brought into another run."""
        if self.recorded is None:
            return ()
        trace, sample = self.recorded
        where = dict[TensorKey, np.ndarray]()
        for d in deviations:
            if d.layer is not None and d.kind in ("state", "key", "value", "logits"):
                key = TensorKey(d.step.forward, Tap(d.kind), d.layer)
                where[key] = np.union1d(where.get(key, d.positions), d.positions)
        patches = list[Patch]()
        for key, positions in where.items():
            tensor = trace.tensor(sample, key)
            if tensor is not None:
                values = tensor.at(positions)
                patches.append(Patch(key.tap, key.forward, key.layer, positions, values))
        return tuple(patches)

    # --- as they should be ----------------------------------------------------------------------

    @cached_property
    def expected(self) -> Trace | None:
        """What the tensors of the focus should be, given the rows that B computed and skipped."""
        window = (self.focus, self.focus)
        led = self.inquiry.ask(Follow("b", self.runs.settings, window, led=_LED, keys=self.keys))
        same_rows = self.outcome.first_of("rows", "skip") is None
        return self.outcome.paired if led is None and self.runs.foreign and same_rows else led

    @cached_property
    def local(self) -> Trace | None:
        """The focus again, each layer fed with B's own input: only errors of the layer itself."""
        return self._fed(_LED)

    @cached_property
    def chosen(self) -> Trace | None:
        """The same, where a cache policy chooses from that input which rows each layer computes."""
        return self._fed(_LED - {"rows"})

    def _fed(self, led: frozenset[Choice]) -> Trace | None:
        if self.recorded is None:
            return None
        return self.inquiry.ask(
            Follow(
                "b",
                self.runs.settings,
                (self.focus, self.focus),
                led=led,
                keys=self.keys,
                patches=tuple(self._inputs()),
                patch_name="each layer fed with B's recorded input",
            )
        )

    def reference(self, forward: int) -> Trace | None:
        """The tensors of an earlier forward, as the reference engine computes them."""
        return self.inquiry.ask(Follow("b", self.runs.settings, (forward, forward), keys=self.keys))

    def _inputs(self) -> list[Patch]:
        """B's recorded states after every layer, and the keys and values that it read as cached."""
        assert self.recorded is not None
        trace, sample = self.recorded
        record = self.runs.record_b
        patches = list[Patch]()
        for key in trace.keys(sample):
            tensor = trace.tensor(sample, key) if key.forward == self.focus else None
            if tensor is None or key.tap in _NO_INPUTS:
                continue
            if key.tap is Tap.KEY and _keys_of(record) == "unknown":
                continue
            positions, values = tensor.positions, tensor.values
            if key.tap is not Tap.STATE:
                old = ~np.isin(positions, self.fresh(key.layer))
                positions, values = positions[old], values[old]
            elif key.layer == record.header.num_layers:
                continue
            if positions.size:
                patches.append(Patch(key.tap, key.forward, key.layer, positions, values))
        return patches

    def fresh(self, layer: int) -> Sequence[int] | np.ndarray:
        """Positions whose keys and values of a layer are computed in the focus."""
        step = self.step
        if step is None:
            return ()
        return step.computed_in(layer)

    def computed_at(self, layer: int, positions: np.ndarray) -> np.ndarray:
        """The forward that computed keys and values last, up to the focus; -1 if none did.

        What a cache holds from before that forward is older than it should be.
        """
        step = self.step
        if step is None:
            return np.full(positions.size, -1)
        age_N = self.runs.record_b.ages_at(step, layer)[positions]
        return np.where(age_N < 0, -1, step.forward - age_N)

    # --- what is wrong --------------------------------------------------------------------------

    @cached_property
    def away(self) -> tuple[Deviation, ...]:
        """Tensors of the focus that are not what they should be, in order of computation."""
        if self.recorded is None or self.expected is None or not self._comparable:
            return ()
        return tuple(self._apart(self.expected))

    @property
    def _comparable(self) -> bool:
        """Whether what is expected was computed in B's dtype; two dtypes differ everywhere."""
        assert self.expected is not None
        return self.expected.records[0].header.dtype == self.runs.record_b.header.dtype

    @cached_property
    def born(self) -> tuple[Deviation, ...]:
        """Tensors of the focus that are wrong although what they were computed from is B's own."""
        if self.recorded is None:
            return ()
        if self.local is None:
            # Up to the first layer that is wrong, both sides had the same inputs.
            return tuple(d for d in self.away if d.layer == self.away[0].layer)
        step = self.step
        cached = np.setdiff1d(np.arange(self.runs.record_b.length), step.rows if step else [])
        return tuple(
            d
            for d in self._apart(self.local)
            if not (d.kind in ("key", "value") and np.isin(d.positions, cached).all())
        )

    @cached_property
    def cached_wrong(self) -> tuple[Deviation, ...]:
        """Keys and values that B read from its cache and that are not what they should be."""
        if self.step is None:
            return ()
        found = list[Deviation]()
        for deviation in self.away:
            if deviation.kind in ("key", "value"):
                old = np.setdiff1d(deviation.positions, self.fresh(deviation.layer or 0))
                if old.size:
                    found.append(replace(deviation, positions=old))
        return tuple(found)

    @cached_property
    def causal_pattern(self) -> bool:
        """Whether errors of the first layer vanish at the last row, as under a causal mask."""
        step = self.step
        states = [d for d in self.born if d.kind == "state" and d.layer == 1]
        if not states or step is None or step.rows.size < 2:
            return False
        last = int(step.rows.max())
        sees_all = last == self.runs.record_b.length - 1
        return sees_all and last not in states[0].positions and states[0].positions.size > 1

    def written_as(self, right: Trace) -> bool | None:
        """Whether the focus has computed the tensors of another trace; None if that has none."""
        if self.recorded is None or not any(k.forward == self.focus for k in right.keys(0)):
            return None
        return not self._apart(right)

    def _apart(self, right: Trace) -> list[Deviation]:
        """Tensors of the focus that are not as in another trace; keys only if both rotate them."""
        assert self.recorded is not None
        trace, sample = self.recorded
        found = tensor_deviations(trace, sample, right, self.focus, self.noise.floor)
        kinds = {_keys_of(self.runs.record_b), _keys_of(right.records[0])}
        comparable = len(kinds) == 1 and "unknown" not in kinds
        return [d for d in found if comparable or d.kind != "key"]


def _keys_of(record: RunRecord) -> str:
    """How a record has its keys: ``rotated``, ``unrotated`` or ``unknown``."""
    return record.header.environment.get("keys", "rotated")
