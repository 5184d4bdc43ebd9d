"""Faults of cache policies that choose in or before each layer which rows it computes.

Shape letters: N packed rows, W numbers of all values, or of all heads, of a row, K positions, D
width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from faults.engine.instead import Fault, instead
from skipstone.cache import LayerValues, dllm, dyllm, elastic
from skipstone.canvas import StepContext
from skipstone.rows import Rows

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Told:
    """Values of a layer, as a fault shows them."""

    values: LayerValues
    shown: Callable[[Tensor, Tensor], Pair]

    def renew(self, rows: Rows) -> Pair:
        return self.shown(*self.values.renew(rows))


def _values_shown(shown: Callable[[Tensor, Tensor], Pair]) -> Fault:
    """Rows are chosen by something else than how far values have moved."""
    most_moved = dllm.MovedValues.most_moved

    def wrong(self: dllm.MovedValues, rows: Rows, values: LayerValues) -> np.ndarray:
        return most_moved(self, rows, _Told(values, shown))

    return lambda: instead(dllm.MovedValues, "most_moved", wrong)


def values_with_themselves() -> Fault:
    """The new values are held against the new ones: nothing seems to have moved."""
    return _values_shown(lambda old_NW, new_NW: (new_NW, new_NW))


def least_moved() -> Fault:
    """The rows whose values moved least are computed."""
    return _values_shown(lambda old_NW, new_NW: (old_NW, -new_NW))


def half_the_share() -> Fault:
    """Half as many rows are computed as the ratio says."""
    most_moved = dllm.MovedValues.most_moved

    def wrong(self: dllm.MovedValues, rows: Rows, values: LayerValues) -> np.ndarray:
        policy = replace(self.policy, ratio=self.policy.ratio / 2)
        return most_moved(dllm.MovedValues(policy, 1), rows, values)

    return lambda: instead(dllm.MovedValues, "most_moved", wrong)


def rows_by_number() -> Fault:
    """A row's number within the response is taken for its number among all rows."""
    rows_in = dllm.MovedValues.rows_in

    def wrong(
        self: dllm.MovedValues, layer: int, values: LayerValues, rows: Rows, context: StepContext
    ) -> Rows | None:
        right, at = rows_in(self, layer, values, rows, context), context.only
        due = self.policy.computes_prompt(at) or self.policy.computes_response(at)
        if right is None or due:
            return right
        return rows.take(np.searchsorted(rows.position, right.position) - at.prompt_length)

    return lambda: instead(dllm.MovedValues, "rows_in", wrong)


def contexts_with_themselves() -> Fault:
    """Contexts are kept before they are compared, so that each is compared with itself."""
    mlp_rows_in = dyllm.Salient.mlp_rows_in

    def wrong(
        self: dyllm.Salient,
        layer: int,
        before_NW: Tensor,
        context_NW: Tensor,
        rows: Rows,
        context: StepContext,
    ) -> Rows | None:
        return mlp_rows_in(self, layer, context_NW, context_NW, rows, context)

    return lambda: instead(dyllm.Salient, "mlp_rows_in", wrong)


def chosen_once() -> Fault:
    """The first layer chooses for all of them."""
    mlp_rows_in, chosen = dyllm.Salient.mlp_rows_in, list[Rows | None]()

    def wrong(
        self: dyllm.Salient,
        layer: int,
        before_NW: Tensor,
        context_NW: Tensor,
        rows: Rows,
        context: StepContext,
    ) -> Rows | None:
        if layer == 1:
            chosen[:] = [mlp_rows_in(self, layer, before_NW, context_NW, rows, context)]
        return chosen[0]

    return lambda: instead(dyllm.Salient, "mlp_rows_in", wrong)


def lower_threshold(by: float) -> Fault:
    """The threshold that is asked is lower than the stated one."""
    mlp_rows_in = dyllm.Salient.mlp_rows_in

    def wrong(
        self: dyllm.Salient,
        layer: int,
        before_NW: Tensor,
        context_NW: Tensor,
        rows: Rows,
        context: StepContext,
    ) -> Rows | None:
        lower = replace(self.policy, threshold=self.policy.threshold - by)
        asked = dyllm.Salient(lower, layer)
        return mlp_rows_in(asked, layer, before_NW, context_NW, rows, context)

    return lambda: instead(dyllm.Salient, "mlp_rows_in", wrong)


def _drift_seen(seen: Callable[[float], float]) -> Fault:
    """How alike a watched token attends is taken for something else."""
    cosine = elastic._cosine

    def wrong(before_K: Tensor, now_K: Tensor) -> float:
        return seen(cosine(before_K, now_K))

    return lambda: instead(elastic, "_cosine", wrong)


def no_drift() -> Fault:
    """What is watched seems to attend as it did, whatever it does."""
    return _drift_seen(lambda like: 1.0)


def drift_inverted(gamma: float) -> Fault:
    """Attention that is alike counts as drifted, and the other way round."""
    return _drift_seen(lambda like: gamma - 1e-9 if like >= gamma else 1.0)


def a_layer_late() -> Fault:
    """All rows are computed from one layer further on than they should be."""
    rows_before = elastic._Watching.rows_before

    def wrong(
        self: elastic._Watching, layer: int, x_ND: Tensor, rows: Rows, context: StepContext
    ) -> Rows | None:
        return rows_before(self, layer - 1, x_ND, rows, context)

    return lambda: instead(elastic._Watching, "rows_before", wrong)
