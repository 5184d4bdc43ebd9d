"""Teacher forcing: cache and skip policies whose choices are taken from a record.

Each stands before the policy of the settings, which is asked all the same, so that what it
remembers and judges goes on as in any run.

Shape letters: N packed rows, R requests, D width, L canvas length, W numbers of all heads of a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from skipstone.cache import CacheNeed, CachePolicy, CacheSession, LayerValues
from skipstone.cache.base import SessionAround
from skipstone.canvas import Geometry, RequestStep, StepContext
from skipstone.diagnosis.experiment import Horizon
from skipstone.engine.forward.skipping import Skipping
from skipstone.record import RunRecord, StepRecord
from skipstone.rows import Rows
from skipstone.skip import SkipPolicy, SkipScores, SkipSession


class RecordedSteps:
    """The steps of a record, and which of them a replay takes."""

    def __init__(self, record: RunRecord, free: int) -> None:
        """Begin with the first; nothing is taken from the record in forward ``free``."""
        self.step = record.steps[0]
        """The one that is being taken."""
        self.horizon: Horizon | None = None
        """How far its rows see; None for as far as the model has it."""
        self.skips = any(step.skip_layer for step in record.steps)
        """Whether any of them could drop rows."""
        self._free = free
        self._before = dict(zip((s.forward for s in record.steps[1:]), record.steps, strict=False))
        self._numbered = {(s.block, s.step): s for s in record.steps if not s.recovery}

    @property
    def free(self) -> bool:
        """Whether the settings choose in this step."""
        return self.step.forward == self._free

    def of(self, context: StepContext) -> StepRecord | None:
        """The recorded step of a context: this one, or one that the run looks ahead to.

        None if there is none, or the settings choose.
        """
        step, asked = self.step, context.requests[0].step
        if asked != step.step:
            step = self._numbered.get((step.block, asked))
        return None if step is None or step.forward == self._free else step

    @property
    def post_step(self) -> int:
        """Which of the steps it is that find no mask in the block, from 1; 0 where there are some.

        A step that repeats another one counts as that.
        """
        return sum(
            not s.masks_before
            for (block, step), s in self._numbered.items()
            if block == self.step.block and step <= self.step.step
        )

    @property
    def committed_before(self) -> tuple[int, ...]:
        """What the recorded step before committed: its canvas against this one."""
        before = self._before.get(self.step.forward)
        if before is None:
            return ()
        new = before.masked & ~self.step.masked
        # An edit changes the token alone; a mask that stays one keeps its id.
        new |= before.ids_before != self.step.ids_before
        return tuple((np.flatnonzero(new) + self.step.prompt_length).tolist())


@dataclass(frozen=True, eq=False)
class ForcedCache(CachePolicy):
    """Rows as recorded, or as a policy chooses."""

    inner: CachePolicy
    recorded: RecordedSteps
    forced: bool
    """Whether the rows are those of the record."""

    @property
    def needs(self) -> frozenset[CacheNeed]:
        """What the policy needs."""
        return self.inner.needs

    def start(self, geometry: Geometry) -> CacheSession:
        """A session around the policy's own."""
        return _ForcedCacheSession(self.inner.start(geometry), self.recorded, self.forced)


@dataclass(frozen=True, eq=False)
class _Watched:
    """``LayerValues`` that notes which rows were renewed."""

    values: LayerValues
    renewed_N: np.ndarray
    """bool: of ``rows``."""
    rows: Rows

    def renew(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """As of the values."""
        for slot in rows.requests:
            here = self.rows.request == slot
            position = rows.position[rows.request == slot]
            self.renewed_N[here] |= np.isin(self.rows.position[here], position)
        return self.values.renew(rows)


class _ForcedCacheSession(SessionAround):
    """Answers from the record for all requests, and tells the policy what it has answered."""

    def __init__(self, inner: CacheSession, recorded: RecordedSteps, forced: bool) -> None:
        super().__init__(inner)
        self._recorded, self._forced = recorded, forced

    def rows(self, context: StepContext) -> Rows:
        """The rows of every request; the record speaks for all, shifted to their prompts."""
        step = self._recorded.of(context)
        if not self._forced or step is None:
            return self._seeing(self.inner.rows(context), context)
        starts = context.canvas.prompt_lengths
        # The last prompt positions of a companion stand for the sample's own.
        own = np.sort(step.rows).astype(np.int64) - step.prompt_length
        positions = {slot: own + starts[slot] for slot in context.active}
        refresh = context.active if step.refresh else ()
        return self._seeing(context.rows_at(positions, refresh=refresh), context)

    def rows_before(
        self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext
    ) -> Rows | None:
        """Who joins is as recorded, who leaves as the policy says; or all as it says."""
        named = self.inner.rows_before(layer, x_ND, rows, context)
        step = self._recorded.of(context)
        if self._forced and step is not None and step.positions_from == "engine":
            named = _as_recorded(layer, rows, named, context, step)
        return None if named is None else self._seeing(named, context)

    def rows_in(
        self, layer: int, values: LayerValues, rows: Rows, context: StepContext
    ) -> Rows | None:
        """As recorded, or what the policy says; so are the values that are renewed."""
        watched = _Watched(values, np.zeros(rows.num_rows, bool), rows)
        said = self.inner.rows_in(layer, watched, rows, context)
        parts_N = self._parts(layer, rows, context)
        if parts_N is None:
            return said
        # Fewer rows at once would be rounded otherwise: what the policy renewed is left.
        renewed = np.flatnonzero((parts_N == 1) & ~watched.renewed_N)
        if renewed.size:
            values.renew(rows.take(renewed))
        return rows.take(np.flatnonzero(parts_N >= 2))

    def mlp_rows_in(
        self,
        layer: int,
        before_NW: Tensor,
        context_NW: Tensor,
        rows: Rows,
        context: StepContext,
    ) -> Rows | None:
        """As recorded, or what the policy says."""
        said = self.inner.mlp_rows_in(layer, before_NW, context_NW, rows, context)
        parts_N = self._parts(layer, rows, context)
        return said if parts_N is None else rows.take(np.flatnonzero(parts_N == 3))

    def _parts(self, layer: int, rows: Rows, context: StepContext) -> np.ndarray | None:
        """What a layer computed of each of the rows that came, as recorded: uint8 [N].

        None where the policy has its say.
        """
        step = self._recorded.of(context)
        if not self._forced or step is None or step.positions_from != "engine":
            return None
        parts_L = np.full(step.entered_age.size, 3, np.uint8)
        if step.layer_parts is not None:
            parts_L[step.rows] = step.layer_parts[layer - 1]
        starts = np.array(context.canvas.prompt_lengths)[rows.request]
        # The last prompt positions of a companion stand for the sample's own.
        return parts_L[np.maximum(0, rows.position - starts + step.prompt_length)]

    def _seeing(self, rows: Rows, context: StepContext) -> Rows:
        """The same rows, which see less or more if that is tried."""
        if self._recorded.horizon is None:
            return rows
        seen = [_horizon(self._recorded.horizon, rows, at, context) for at in context.requests]
        at_R = [rows.request == at.slot for at in context.requests]
        return replace(rows, horizon=np.select(at_R, seen, rows.horizon))


def _as_recorded(
    layer: int, rows: Rows, named: Rows | None, context: StepContext, step: StepRecord
) -> Rows | None:
    """Those that came and that the policy keeps, and those that joined before a layer; or None."""
    own, starts = step.joined(layer, layer) - step.prompt_length, context.canvas.prompt_lengths
    if named is None and not own.size:
        return None
    going = dict[int, np.ndarray]()
    for slot in context.active:
        came = rows.position[rows.request == slot]
        if named is not None:
            came = np.intersect1d(came, named.position[named.request == slot])
        going[slot] = np.union1d(came, own + starts[slot])
    return context.rows_at(going)


def _horizon(far: Horizon, rows: Rows, at: RequestStep, context: StepContext) -> np.ndarray:
    """One past the last position that each row sees, int64 [N]; of one request."""
    position, block = rows.position, at.reach.block_size
    # What is right of it has no keys yet.
    last = int(position[rows.request == at.slot].max(initial=0)) + 1
    match far:
        case "padding seen":
            return np.full(rows.num_rows, context.canvas.ids_BL.shape[1])
        case "later":
            return position + 1
        case "call seen":
            return np.full(rows.num_rows, last)
        case "own block":
            return rows.horizon if block is None else np.maximum(1, position // block * block)
        case "next block seen":
            beyond = 0 if block is None else block
            return np.maximum(rows.horizon, np.minimum(last, rows.horizon + beyond))


@dataclass(frozen=True, eq=False)
class ForcedSkip(SkipPolicy):
    """Skipped rows as recorded, or as a policy chooses; the policy judges in both cases."""

    inner: SkipPolicy
    recorded: RecordedSteps
    forced: bool
    """Whether the rows that skip are those of the record."""
    unskip: tuple[int, ...]
    """Forwards in which no row skips."""

    @property
    def skips_at_start(self) -> bool:
        """As the policy says."""
        return self.inner.skips_at_start

    @property
    def old_may_lead(self) -> bool:
        """As the policy says."""
        return self.inner.old_may_lead

    def start(self, geometry: Geometry) -> SkipSession | None:
        """A session around the policy's own; None if no row can skip."""
        inner = Skipping.start(self.inner, geometry)
        forced = self.forced and (inner is not None or self.recorded.skips)
        if not forced and (inner is None or not self.unskip):
            return None if inner is None else inner.session
        return _ForcedSkipSession(inner, self.recorded, forced, self.unskip)


class _ForcedSkipSession:
    """Asks the policy, so that its references and scores are kept, and answers from the record."""

    def __init__(
        self,
        inner: Skipping | None,
        recorded: RecordedSteps,
        forced: bool,
        unskip: tuple[int, ...],
    ) -> None:
        self._inner, self._recorded = inner, recorded
        self._forced, self._unskip = forced, unskip
        self._stops = () if inner is None else inner.stops

    @property
    def scores(self) -> SkipScores | None:
        """What the policy judged."""
        return None if self._inner is None else self._inner.scores

    @property
    def decides_after(self) -> tuple[int, ...]:
        """Any layer: the record says which."""
        return ()

    def expect(self, rows: Rows) -> None:
        """Hand on to the policy."""
        if self._inner is not None:
            self._inner.expect(rows)

    def keep(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> Tensor | None:
        """Rows that the record says went on past this layer."""
        chosen_N = None
        if self._inner is not None and self._sees(layer):
            chosen_N = self._inner.keep(layer, x_ND, rows, context)
        step = self._recorded.step
        if step.forward in self._unskip:
            return None
        if not self._forced or self._recorded.free:
            return chosen_N
        leaving = step.rows[step.left_before == layer + 1]
        if not leaving.size:
            return None
        starts = np.array(context.canvas.prompt_lengths)[rows.request]
        left = np.isin(rows.position - starts + step.prompt_length, leaving)
        return torch.from_numpy(~left).to(x_ND.device)

    def learn(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> None:
        """Hand on to the policy."""
        if self._inner is not None and self._sees(layer):
            self._inner.learn(layer, x_ND, rows, context)

    def forget(self, request: int) -> None:
        """Hand on to the policy."""
        if self._inner is not None:
            self._inner.forget(request)

    def _sees(self, layer: int) -> bool:
        """Whether the policy is shown the states after a layer."""
        return bool(self._stops) and layer <= self._stops[-1]
