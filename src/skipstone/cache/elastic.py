"""Elastic-Cache (Nguyen-Tri et al., arXiv 2510.14973): recompute from where attention drifts.

Keys and values change little in early layers and more in late ones, and those of the token that is
attended to most change least. So each layer watches that token: as soon as it attends otherwise
than in the step before, all rows are computed from the next layer on, from what entered that layer
when they were last computed. There is no refresh by the clock, nor one at the start of a block.

The paper's window of leftmost masks is the block here: a step computes the masks of the block,
what was committed since the last step, and the watched tokens. Its code was not at hand; how a
watched token's row is compared follows the paper's text.

Shape letters: N packed rows, K positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from skipstone.cache.base import CacheNeed, CachePolicy, CacheSession
from skipstone.cache.delayed import to_decode
from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.host_canvas import Status
from skipstone.knob import Knob

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import Geometry, RequestStep, StepContext
    from skipstone.rows import Rows

_MOST_CAREFUL = 0.99


@dataclass(frozen=True)
class ElasticCache(CachePolicy):
    """Recompute the block's masks, and all rows from the layer on at which attention drifts."""

    gamma: float = 0.9
    """Least cosine between how a watched token attends in two steps in a row; below it, all rows
    are computed from the next layer on. 0 to 1; at 0 nothing is ever computed again."""

    knob = Knob("gamma", (0.5, 0.8, 0.95))

    def __post_init__(self) -> None:
        """Refuse what is no cosine of two distributions."""
        check_fields(self)
        if not 0 <= self.gamma <= 1:
            raise ConfigError(f"elastic gamma is {self.gamma}, must be between 0 and 1")

    @property
    def needs(self) -> frozenset[CacheNeed]:
        """How rows attend, and what enters the layers from which all rows may go on."""
        return frozenset(("attention", "layer_inputs"))

    def start(self, geometry: Geometry) -> CacheSession:
        """What each request watches."""
        return _Watching(self.gamma, geometry.num_layers)

    def session_bytes(self, geometry: Geometry) -> int:
        """How the watched token of each layer attends to each position, in float32."""
        return geometry.num_layers * geometry.batch * geometry.length * 4

    def fresher(self) -> CachePolicy | None:
        """Half as much drift is borne."""
        if self.gamma >= _MOST_CAREFUL:
            return None
        return replace(self, gamma=(1 + self.gamma) / 2)


@dataclass
class _Watched:
    """What is known of a request."""

    masked: np.ndarray
    """Offsets that were masked as its last step began, ascending."""
    token: dict[int, int] = field(default_factory=dict)
    """The position that each layer watches."""
    attends_K: dict[int, Tensor] = field(default_factory=dict)
    """How it attended in the last step, by layer; absent where its row was not computed."""
    drifted: int | None = None
    """The layer at which it attends otherwise in this step; None: at none so far."""


class _Watching(CacheSession):
    """Watches a token of each layer, for each request."""

    def __init__(self, gamma: float, num_layers: int) -> None:
        self._gamma, self._last = gamma, num_layers
        self._watched = dict[int, _Watched]()
        """By slot."""

    @property
    def names_before(self) -> tuple[int, ...]:
        """Every layer that has one before it."""
        return tuple(range(2, self._last + 1))

    def rows(self, context: StepContext) -> Rows:
        """All rows of a request at first, then masks, what was committed, and what is watched."""
        first, later = context.split(lambda at: at.sees_more)
        positions = {at.slot: self._due(at, context) for at in later.requests}
        return first.changed_rows().beside(later.rows_at(positions))

    def taken(self, rows: Rows, context: StepContext) -> None:
        """Note what is masked as this step begins."""
        for at in context.requests:
            known = self._watched.setdefault(at.slot, _Watched(np.zeros(0, dtype=np.int64)))
            known.masked = np.flatnonzero(context.host.status_BG[at.slot] == Status.MASK)
            known.drifted = None

    def rows_before(
        self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext
    ) -> Rows | None:
        """All rows of the requests whose attention has drifted in the layer before."""
        drifted, others = context.split(lambda at: self._watched[at.slot].drifted == layer - 1)
        if not drifted.requests:
            return None
        whole = drifted.changed_rows()
        named = {slot: whole.position[whole.request == slot] for slot in drifted.active}
        still = rows.only(others.active)
        return drifted.rows_at(named).beside(still)

    def attended(self, layer: int, weights_NK: Tensor, rows: Rows, context: StepContext) -> None:
        """Compare the watched tokens with the last step, and choose those of the next."""
        for at in context.requests:
            mine = rows.span(at.slot)
            self._look(layer, weights_NK[mine], rows.position[mine], at, context)

    def forget(self, request: int) -> None:
        """Another request takes the slot."""
        self._watched.pop(request, None)

    def _due(self, at: RequestStep, context: StepContext) -> np.ndarray:
        """Positions that a step computes beside a drift: ascending."""
        known = self._watched[at.slot]
        decode = to_decode(known.masked[known.masked < at.block.stop], at, context)
        return np.union1d(decode, np.array(list(known.token.values()), dtype=np.int64))

    def _look(
        self,
        layer: int,
        weights_RK: Tensor,
        position_R: np.ndarray,
        at: RequestStep,
        context: StepContext,
    ) -> None:
        """See one layer of a request. Waits for the device: the host must know which rows go on."""
        known = self._watched[at.slot]
        now_K = _row_of(known.token.get(layer), weights_RK, position_R)
        before_K = known.attends_K.pop(layer, None)
        if now_K is not None and known.drifted is None:
            # Of one that is watched anew nobody knows how it attended.
            like = 0.0 if before_K is None else _cosine(before_K, now_K)
            known.drifted = layer if like < self._gamma else None
        token = _most_attended(weights_RK, position_R, at, context)
        if token is None:
            known.token.pop(layer, None)
            return
        known.token[layer] = token
        next_K = _row_of(token, weights_RK, position_R)
        if next_K is not None:
            known.attends_K[layer] = next_K.clone()


def _most_attended(
    weights_RK: Tensor, position_R: np.ndarray, at: RequestStep, context: StepContext
) -> int | None:
    """The committed position that the masks of this step attend to most; None if there is none."""
    masked = np.zeros(at.prompt_length + context.host.status_BG.shape[1], bool)
    masked[at.prompt_length :] = context.host.status_BG[at.slot] == Status.MASK
    asking = np.flatnonzero(masked[position_R])
    committed = np.flatnonzero(~masked[: weights_RK.shape[1]])
    if not asking.size or not committed.size:
        return None
    return int(committed[int(weights_RK[asking][:, committed].sum(0).argmax())])


def _row_of(position: int | None, weights_RK: Tensor, position_R: np.ndarray) -> Tensor | None:
    """How a position attends; None where its row was not computed."""
    found = np.flatnonzero(position_R == position)
    return weights_RK[int(found[0])] if found.size else None


def _cosine(before_K: Tensor, now_K: Tensor) -> float:
    """Of two rows of weights, over the positions that both have."""
    both = min(len(before_K), len(now_K))
    a_K, b_K = before_K[:both].double(), now_K[:both].double()
    return float(a_K @ b_K / (a_K.norm() * b_K.norm()).clamp_min(1e-300))
