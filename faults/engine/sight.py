"""Faults of who sees whom: what attention may look at.

Shape letters: B requests, L canvas length, N packed rows, H heads, U key/value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from faults.engine.instead import Fault, instead
from skipstone.canvas import RequestStep, StepContext
from skipstone.memory.prefixes import Prefix
from skipstone.memory.store import Admitted, KVStore
from skipstone.ops.model import reference as ops
from skipstone.rows import Rows

# More than any prompt of the bench with what is decoded.
_LONGEST = 512

Sight = Callable[[Tensor, Rows], Tensor]
"""From what may be seen, bool [B, L], and the rows, to what is seen instead."""


def _seeing(change: Sight) -> Fault:
    """Replace the visible positions in cached steps."""
    attend = ops.attend

    def wrong(
        q_NHE: Tensor,
        key_CUE: Tensor,
        value_CUE: Tensor,
        rows: Rows,
        visible_BL: Tensor | None,
    ) -> Tensor:
        if rows.num_rows < sum(part.bound * len(part.requests) for part in rows.alike):
            if visible_BL is None:
                longest = int(rows.horizon.max())
                visible_BL = torch.ones(max(rows.requests) + 1, longest, dtype=torch.bool)
            visible_BL = change(visible_BL.clone(), rows)
        return attend(q_NHE, key_CUE, value_CUE, rows, visible_BL)

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
    attend, admit = ops.attend, KVStore.admit

    def with_padding(self: KVStore, length: int, prefix: Prefix | None = None) -> Admitted | None:
        return admit(self, max(length, _LONGEST), prefix)

    def wrong(
        q_NHE: Tensor,
        key_CUE: Tensor,
        value_CUE: Tensor,
        rows: Rows,
        visible_BL: Tensor | None,
    ) -> Tensor:
        seen = replace(rows, horizon=np.full(rows.num_rows, rows.horizon.max()))
        return attend(q_NHE, key_CUE, value_CUE, seen, visible_BL)

    @contextmanager
    def fault() -> Generator[None, None, None]:
        with instead(KVStore, "admit", with_padding), instead(ops, "attend", wrong):
            yield

    return fault


def _reaching(far: Callable[[Rows], np.ndarray]) -> Fault:
    """Replace how far each row sees, in every step."""
    attend = ops.attend

    def wrong(
        q_NHE: Tensor,
        key_CUE: Tensor,
        value_CUE: Tensor,
        rows: Rows,
        visible_BL: Tensor | None,
    ) -> Tensor:
        return attend(q_NHE, key_CUE, value_CUE, replace(rows, horizon=far(rows)), visible_BL)

    return lambda: instead(ops, "attend", wrong)


def window_too_long(more: Callable[[RequestStep], int]) -> Fault:
    """A window right of the block has more positions than its settings say."""
    length_at = StepContext.length_at

    def wrong(self: StepContext, at: RequestStep) -> int:
        assert at.suffix is not None
        return length_at(self, replace(at, suffix=at.suffix + more(at)))

    return lambda: instead(StepContext, "length_at", wrong)


def own_block_hidden(block: int) -> Fault:
    """Rows see the blocks before their own, and only those."""
    return _reaching(lambda rows: np.maximum(1, rows.position // block * block))


def horizon_ignored() -> Fault:
    """Rows see all that is computed with them, and not only up to the end of their block."""
    return _reaching(lambda rows: np.full(rows.num_rows, int(rows.position.max()) + 1))


def causal() -> Fault:
    """Rows see only what stands left of them, as in a model that writes from left to right."""
    return _reaching(lambda rows: rows.position + 1)
