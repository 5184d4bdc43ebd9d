"""Faults of who sees whom: what attention may look at.

Shape letters: B requests, L canvas length, N packed rows, H heads, U key/value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from faults.engine.instead import Fault, instead
from skipstone.ops import reference as ops
from skipstone.rows import Rows

Sight = Callable[[Tensor, Rows], Tensor]
"""From what may be seen, bool [B, L], and the rows, to what is seen instead."""


def _seeing(change: Sight) -> Fault:
    """Replace the visible positions in cached steps."""
    attend = ops.attend

    def wrong(
        q_NHE: Tensor,
        key_BLUE: Tensor,
        value_BLUE: Tensor,
        rows: Rows,
        visible_BL: Tensor | None,
    ) -> Tensor:
        if rows.num_rows < key_BLUE.shape[0] * key_BLUE.shape[1]:
            if visible_BL is None:
                visible_BL = torch.ones(key_BLUE.shape[:2], dtype=torch.bool)
            visible_BL = change(visible_BL.clone(), rows)
        return attend(q_NHE, key_BLUE, value_BLUE, rows, visible_BL)

    return lambda: instead(ops, "attend", wrong)


def suffix_hidden() -> Fault:
    """In cached steps rows do not see the masks right of their block."""

    def change(visible_BL: Tensor, rows: Rows) -> Tensor:
        visible_BL[:, int(rows.position.max()) + 1 :] = False
        return visible_BL

    return _seeing(change)


def prompt_hidden(length: int) -> Fault:
    """In cached steps rows do not see the first positions, where the prompt is."""

    def change(visible_BL: Tensor, rows: Rows) -> Tensor:
        visible_BL[:, :length] = False
        return visible_BL

    return _seeing(change)


def window(reach: int) -> Fault:
    """In cached steps rows see only what is near their block."""

    def change(visible_BL: Tensor, rows: Rows) -> Tensor:
        visible_BL[:, : max(0, int(rows.position.min()) - reach)] = False
        visible_BL[:, int(rows.position.max()) + 1 + reach :] = False
        return visible_BL

    return _seeing(change)


def padding_seen() -> Fault:
    """The padding of shorter requests is attended; only a ragged batch has any."""
    attend = ops.attend

    def wrong(
        q_NHE: Tensor,
        key_BLUE: Tensor,
        value_BLUE: Tensor,
        rows: Rows,
        visible_BL: Tensor | None,
    ) -> Tensor:
        seen = replace(rows, horizon=np.full(rows.num_rows, key_BLUE.shape[1]))
        return attend(q_NHE, key_BLUE, value_BLUE, seen, visible_BL)

    return lambda: instead(ops, "attend", wrong)


def causal() -> Fault:
    """Rows see only what stands left of them, as in a model that writes from left to right."""

    def wrong(
        q_NHE: Tensor,
        key_BLUE: Tensor,
        value_BLUE: Tensor,
        rows: Rows,
        visible_BL: Tensor | None,
    ) -> Tensor:
        place_L = torch.arange(key_BLUE.shape[1])
        mask_NL = place_L[None] <= rows.position_N[:, None]
        out_HNE = F.scaled_dot_product_attention(
            q_NHE.transpose(0, 1),
            key_BLUE[0].transpose(0, 1),
            value_BLUE[0].transpose(0, 1),
            attn_mask=mask_NL,
        )
        return out_HNE.transpose(0, 1).flatten(1)

    return lambda: instead(ops, "attend", wrong)
