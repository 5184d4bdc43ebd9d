"""Cache policies in the midst of a forward: rows that leave and come before a layer.

A forward goes through its layers with the rows of its step. Before a layer that a session of a
cache policy has announced, that session may name the rows of its requests anew. Who has come this
far brings its state along; who has not goes on from what entered this layer when it was last
computed, which is kept for this.

Shape letters: N packed rows, D width, K positions, H query heads, E head width, U key/value heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from skipstone.engine.forward.asked import Asked, cuts
from skipstone.engine.forward.choosing import Choosing
from skipstone.engine.forward.followers import Followers
from skipstone.engine.forward.interventions import Intervention
from skipstone.engine.forward.seeing import Seeing
from skipstone.engine.guarded import Failed, check_rows, noting
from skipstone.errors import ConfigError
from skipstone.memory.kept import Kept, KeptStates
from skipstone.memory.store import KVStore
from skipstone.ops.model import reference as ops
from skipstone.rows import Rows, to_device


class Naming:
    """What the cache policies of one step say in the midst of the forward."""

    def __init__(
        self, asked: Sequence[Asked], kept: Kept, failed: Failed, followers: Followers
    ) -> None:
        """Take the sessions that have a say.

        Args:
            asked: those.
            kept: what is kept of earlier steps.
            failed: takes the errors of sessions; one that failed has no say any more.
            followers: requests that others compute; sessions have no say of their rows.
        """
        self._asked, self._inputs, self._failed = asked, kept.inputs, failed
        self._followers = followers
        self.layers = tuple(sorted({n for one in asked for n in one.session.names_before}))
        """Layers before which ``before`` is to be asked, ascending."""
        watching = [one for one in asked if "attention" in one.policy.needs]
        self.attention = _Attention(watching, failed, followers) if watching else None
        """Shows to sessions how rows attend; None: no policy needs it."""
        choosing = [one for one in asked if one.session.chooses_in]
        self.choosing = (
            Choosing("layer", choosing, kept.changes, failed, followers) if choosing else None
        )
        """Says which rows layers compute; None: nobody does."""
        choosing = [one for one in asked if one.session.chooses_mlp_in]
        self.choosing_mlps = (
            Choosing("mlp", choosing, kept.mlps, failed, followers) if choosing else None
        )
        """Says of which rows layers compute the MLP; None: nobody does."""
        self.contexts = kept.contexts
        """What the heads gave, by which that is said."""
        keyed = [one for one in asked if "keys" in one.policy.needs]
        self.seeing = Seeing(keyed, failed, followers) if keyed else None
        """Says which keys rows see; None: nobody does."""
        self.cuts = cuts(one.session for one in asked)
        """Layers with which a span begins, ascending."""

    def before(self, layer: int, x_ND: Tensor, rows: Rows) -> tuple[Rows, Tensor]:
        """The rows that go on through ``layer``, and the states that enter it."""
        parts = list[tuple[Rows, Tensor]]()
        named_of = set[int]()
        for asked in self._asked:
            if layer not in asked.session.names_before:
                continue
            came = self._followers.picked(rows, x_ND, asked.context.active)
            self._inputs.keep(layer, *came)
            named = self._named(asked, layer, x_ND, rows)
            if named is not None:
                parts.append(named)
                named_of.update(asked.free.active)
        if not parts:
            return rows, x_ND
        others = [slot for slot in rows.requests if slot not in named_of]
        return _together([*parts, _picked(rows, x_ND, others)])

    def _named(
        self, asked: Asked, layer: int, x_ND: Tensor, rows: Rows
    ) -> tuple[Rows, Tensor] | None:
        """What goes on of the rows that one session may name; None: those that came."""
        if not asked.free.requests or asked.has_failed(self._failed):
            return None
        came, came_ND = self._followers.picked(rows, x_ND, asked.free.active)
        named = None
        with noting(self._failed, asked.policy, asked.context.active):
            said = asked.session.rows_before(layer, came_ND, came, asked.free)
            if said is not None:
                _check(said, asked, layer, self._inputs)
            named = said
        # The states of those that came were kept just now.
        return None if named is None else (named, self._inputs.take(layer, named))


class _Attention(Intervention):
    """Changes nothing: it shows how rows attend."""

    def __init__(self, asked: Sequence[Asked], failed: Failed, followers: Followers) -> None:
        self._asked, self._failed, self._followers = asked, failed, followers

    def entering(self, layer: int, x_ND: Tensor, rows: Rows) -> Tensor:
        """As they are."""
        return x_ND

    def written(
        self, layer: int, rows: Rows, qkv_NHE: Tensor, q_NHE: Tensor, store: KVStore
    ) -> Tensor:
        """The same queries, once the sessions have seen what they look at."""
        watching = [one for one in self._asked if not one.has_failed(self._failed)]
        watched = {self._followers.leader(at) for one in watching for at in one.context.active}
        seen, seen_NHE = _picked(rows, q_NHE, sorted(watched))
        weights_NK = ops.attention_weights(
            seen_NHE, store.keys[layer - 1], seen, store.visible_in(layer - 1)
        )
        for policy, session, context, _ in watching:
            mine, mine_NK = self._followers.picked(seen, weights_NK, context.active)
            with noting(self._failed, policy, context.active):
                session.attended(layer, mine_NK, mine, context)
        return q_NHE

    def scoring(self, rows: Rows, logits_NV: Tensor) -> Tensor:
        """As they are."""
        return logits_NV


def _check(named: Rows, asked: Asked, layer: int, inputs: KeptStates) -> None:
    """Refuse rows that there are none of, or that nothing is kept of."""
    check_rows(asked.policy, named)
    who = type(asked.session).__name__
    strange = sorted(set(named.requests) - set(asked.free.active))
    if strange:
        raise ConfigError(
            f"{who} names rows of slot {strange[0]} before layer {layer}, which it was not asked "
            f"about: {asked.free.active}"
        )
    lacking = inputs.lacking(layer, named)
    if lacking.size:
        raise ConfigError(
            f"{who} names position {named.position[lacking[0]]} before layer {layer}, and nothing "
            f"that entered this layer there is kept: a step before must compute it up to there"
        )


def _picked(rows: Rows, x_NX: Tensor, slots: Sequence[int]) -> tuple[Rows, Tensor]:
    """The rows of some requests, with their states."""
    some = rows.only(slots)
    if some is rows:
        return rows, x_NX
    return some, x_NX[to_device(np.flatnonzero(rows.of(slots)), x_NX.device)]


def _together(parts: Sequence[tuple[Rows, Tensor]]) -> tuple[Rows, Tensor]:
    """Rows of several requests as one, with their states in the same order."""
    parts = [part for part in parts if part[0].num_rows] or list(parts[:1])
    if len(parts) == 1:
        return parts[0]
    request = np.concatenate([rows.request for rows, _ in parts])
    order_N = to_device(np.argsort(request, kind="stable"), parts[0][1].device)
    return Rows.join(*(rows for rows, _ in parts)), torch.cat([x for _, x in parts])[order_N]
