"""Policies that stand before others: each is asked as in any run, and a script has the last word.

What follows from the canvas alone is left as it is: a cache that looks at no states has no wrapper,
since under the same commits it computes the same rows.

Shape letters: B requests, G generation length, N packed rows, D width, M masks, V vocabulary,
W numbers of all heads of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor

from benchmarks.replayed.scripts import Script
from skipstone.cache import CacheNeed, CachePolicy, CacheSession, LayerValues
from skipstone.cache.base import SessionAround
from skipstone.canvas import Geometry, StepContext
from skipstone.engine import Settings
from skipstone.rows import Rows
from skipstone.skip import NoSkip, SkipPolicy, SkipScores, SkipSession
from skipstone.unmask import MaskLogits, Need, Scores, UnmaskPolicy, UnmaskSession
from skipstone.unmask.base import NarrowingSession, WeighingSession


def scripted(settings: Settings, script: Script) -> Settings:
    """The same settings, with a script before each policy that looks at states or scores."""
    cache, skip = settings.cache, settings.skip
    return settings.replace(
        unmask=ScriptedUnmask(settings.unmask, script),
        cache=ScriptedCache(cache, script) if cache.needs else cache,
        skip=skip if isinstance(skip, NoSkip) else ScriptedSkip(skip, script),
    )


@dataclass(frozen=True)
class ScriptedUnmask(UnmaskPolicy):
    """An unmask policy, and who decides after it."""

    inner: UnmaskPolicy
    script: Script

    @property
    def needs(self) -> frozenset[Need]:
        """As the policy's."""
        return self.inner.needs

    @property
    def uses_steps(self) -> bool:
        """As the policy does."""
        return self.inner.uses_steps

    @property
    def uses_seed(self) -> bool:
        """As the policy does."""
        return self.inner.uses_seed

    @property
    def pure(self) -> bool:
        """As the policy is: a script, too, speaks of where a request is."""
        return self.inner.pure

    @property
    def paced_by_time(self) -> bool:
        """As the policy is."""
        return self.inner.paced_by_time

    @property
    def keeps_to_schedule(self) -> bool:
        """As the policy does."""
        return self.inner.keeps_to_schedule

    @property
    def post_steps_of_block(self) -> int:
        """As the policy's."""
        return self.inner.post_steps_of_block

    @property
    def opens_alone(self) -> bool:
        """As the policy does."""
        return self.inner.opens_alone

    @property
    def narrows(self) -> bool:
        """As the policy does."""
        return self.inner.narrows

    def start(self, geometry: Geometry) -> UnmaskSession:
        """A session around the policy's own."""
        return _UnmaskSession(self.inner.start(geometry), self.script)


@dataclass(frozen=True, eq=False)
class _UnmaskSession:
    inner: UnmaskSession
    script: Script

    @property
    def sees_B1(self) -> Tensor:
        """As the policy says."""
        return cast("NarrowingSession", self.inner).sees_B1

    def weigh(self, masks: MaskLogits, context: StepContext) -> Tensor:
        """What the policy makes of the logits: [M, V]."""
        return cast("WeighingSession", self.inner).weigh(masks, context)

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """What the script makes of what the policy selects: bool [B, G]."""
        return self.script.commits(self.inner.select(scores, context), context)

    def forget(self, request: int) -> None:
        """Hand on to the policy."""
        self.inner.forget(request)


@dataclass(frozen=True)
class ScriptedCache(CachePolicy):
    """A cache policy, and who decides after it."""

    inner: CachePolicy
    script: Script

    @property
    def needs(self) -> frozenset[CacheNeed]:
        """As the policy's."""
        return self.inner.needs

    def start(self, geometry: Geometry) -> CacheSession:
        """A session around the policy's own."""
        return _CacheSession(self.inner.start(geometry), self.script)


class _CacheSession(SessionAround):
    def __init__(self, inner: CacheSession, script: Script) -> None:
        super().__init__(inner)
        self._script = script

    def rows(self, context: StepContext) -> Rows:
        """What the script makes of the policy's rows."""
        return self._script.rows(self.inner.rows(context), context)

    def rows_before(
        self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext
    ) -> Rows | None:
        """What the script makes of the policy's rows."""
        said = self.inner.rows_before(layer, x_ND, rows, context)
        return self._script.named(layer, said, rows, context)

    def rows_in(
        self, layer: int, values: LayerValues, rows: Rows, context: StepContext
    ) -> Rows | None:
        """What the script makes of the policy's rows."""
        said = self.inner.rows_in(layer, values, rows, context)
        return self._script.chosen(layer, said, rows, context)

    def mlp_rows_in(
        self,
        layer: int,
        before_NW: Tensor,
        context_NW: Tensor,
        rows: Rows,
        context: StepContext,
    ) -> Rows | None:
        """What the script makes of the policy's rows."""
        said = self.inner.mlp_rows_in(layer, before_NW, context_NW, rows, context)
        return self._script.chosen(layer, said, rows, context)


@dataclass(frozen=True)
class ScriptedSkip(SkipPolicy):
    """A skip policy, and who decides after it."""

    inner: SkipPolicy
    script: Script

    @property
    def pure(self) -> bool:
        """As the policy is."""
        return self.inner.pure

    @property
    def skips_at_start(self) -> bool:
        """As the policy does."""
        return self.inner.skips_at_start

    @property
    def old_may_lead(self) -> bool:
        """As the policy has it."""
        return self.inner.old_may_lead

    def start(self, geometry: Geometry) -> SkipSession | None:
        """A session around the policy's own; None if it never skips."""
        session = self.inner.start(geometry)
        return None if session is None else _SkipSession(session, self.script)


@dataclass(frozen=True, eq=False)
class _SkipSession:
    inner: SkipSession
    script: Script

    @property
    def scores(self) -> SkipScores | None:
        """What the policy judged."""
        return self.inner.scores

    @property
    def decides_after(self) -> tuple[int, ...]:
        """Where the policy decides."""
        return self.inner.decides_after

    def expect(self, rows: Rows) -> None:
        """Hand on to the policy."""
        self.inner.expect(rows)

    def keep(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> Tensor | None:
        """What the script makes of the rows that the policy keeps: bool [N]."""
        said_N = self.inner.keep(layer, x_ND, rows, context)
        return None if said_N is None else self.script.kept(layer, said_N, rows, context)

    def learn(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> None:
        """Hand on to the policy."""
        self.inner.learn(layer, x_ND, rows, context)

    def forget(self, request: int) -> None:
        """Hand on to the policy."""
        self.inner.forget(request)
