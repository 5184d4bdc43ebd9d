"""Cache policies that say which keys rows see, another set in each layer.

A session is shown queries and keys where it wants to look, in the midst of a layer, and says before
a later forward what is visible in each of its layers. Rows stay as they are, and so do keys: what
is hidden is left out by attention alone.

Shape letters: N packed rows, H query heads, U key/value heads, E head width, Y layers, B requests,
L canvas length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from skipstone.canvas import StepContext
from skipstone.engine.forward.asked import Asked
from skipstone.engine.forward.followers import Followers
from skipstone.engine.forward.interventions import Intervention
from skipstone.engine.guarded import Failed, checked_visible, noting
from skipstone.memory.store import KVStore
from skipstone.rows import Rows, to_device


class Seeing(Intervention):
    """What the cache policies of one step see of queries and keys; changes nothing."""

    def __init__(self, asked: Sequence[Asked], failed: Failed, followers: Followers) -> None:
        """Take the sessions that have a say.

        Args:
            asked: those.
            failed: takes the errors of sessions; one that failed has no say any more.
            followers: requests that others compute; what those do is shown as theirs.
        """
        self._asked, self._failed, self._followers = asked, failed, followers
        self._looking = [self._wanted(one) for one in asked]
        self.looks = any(context.requests for context in self._looking)
        """Whether any of them looks at queries and keys in this step."""

    def visible(self, num_layers: int) -> Tensor | None:
        """Which keys rows see in this step, bool [Y, B, L]: a copy; None: all.

        Args:
            num_layers: Y.
        """
        visible_YBL = None
        for one in self._asked:
            if not one.free.requests or one.has_failed(self._failed):
                continue
            shape = (num_layers, *one.context.canvas.ids_BL.shape)
            said_YBL = None
            with noting(self._failed, one.policy, one.context.active):
                said_YBL = checked_visible(one.policy, one.session.visible(one.free), shape)
            if said_YBL is None:
                continue
            if visible_YBL is None:
                visible_YBL = torch.ones_like(said_YBL)
            slots = to_device(np.array(one.free.active), said_YBL.device)
            visible_YBL[:, slots] = said_YBL[:, slots]
        return visible_YBL

    def entering(self, layer: int, x_ND: Tensor, rows: Rows) -> Tensor:
        """As they are."""
        return x_ND

    def written(
        self, layer: int, rows: Rows, qkv_NHE: Tensor, q_NHE: Tensor, store: KVStore
    ) -> Tensor:
        """The same queries, once the sessions have seen what they look at, request by request."""
        for one, looking in zip(self._asked, self._looking, strict=True):
            for at in looking.requests:
                mine, mine_RHE = self._followers.picked(rows, q_NHE, (at.slot,))
                if one.has_failed(self._failed) or not mine.num_rows:
                    continue
                # Of whoever computes them: the keys of a follower are not there yet.
                base = int(rows.base[rows.span(self._followers.leader(at.slot)).start])
                far = base + int(mine.horizon.max())
                with noting(self._failed, one.policy, one.context.active):
                    one.session.met(
                        layer,
                        mine_RHE,
                        store.keys[layer - 1, base:far],
                        mine,
                        replace(looking, requests=(at,)),
                    )
        return q_NHE

    def scoring(self, rows: Rows, logits_NV: Tensor) -> Tensor:
        """As they are."""
        return logits_NV

    def _wanted(self, one: Asked) -> StepContext:
        """The requests whose queries a session looks at; none where it fails."""
        with noting(self._failed, one.policy, one.context.active):
            return one.context.split(one.session.looks_at)[0]
        return replace(one.context, requests=())
