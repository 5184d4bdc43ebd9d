"""The shadow of a block: its positions once more, all masks, where a policy asks for it.

What a request has computed does not depend on its shadow, which sees it. So the shadow goes through
the layers after it, over the keys and values that the step has left in the store, whatever rows the
step computed and whoever computed them.

Shape letters: N packed rows, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skipstone.canvas import RequestStep, Status, StepContext
from skipstone.memory.shadow import ShadowKV
from skipstone.memory.store import KVStore
from skipstone.models.base import Network
from skipstone.rows import Rows


class Shadow(NamedTuple):
    """What was computed of the shadows of a step."""

    rows: Rows
    x_ND: Tensor
    """States after the last layer."""
    doubted: np.ndarray
    """int64 [M]: which of the rows stand where a token is committed; one at least."""


def cast_shadow(network: Network, store: KVStore, context: StepContext) -> Shadow | None:
    """Compute the shadows of a step, after its forward.

    Args:
        network: computes them.
        store: keys and values of the requests, as this step has left them; not changed.
        context: of the step, which was not launched ahead.

    Returns:
        None if nobody asks, or nothing is committed yet of any block that is asked about.
    """
    if not any(at.revokes for at in context.requests):
        return None
    casting, _ = context.split(lambda at: at.revokes and Status.COMMITTED in _held(at, context))
    if not casting.requests:
        return None
    rows = casting.rows_at({at.slot: _decoded(at, context) for at in casting.requests})
    shadow, angles_2NR = ShadowKV(store, rows), network.angles(rows)
    mask_id = network.config.mask_id
    x_ND = network.embed(torch.full_like(rows.position_N, mask_id))
    for layer in range(network.config.num_layers):
        x_ND = network.layer(layer, x_ND, angles_2NR, rows, shadow)
    committed = [_held(at, context) for at in casting.requests]
    committed = [held[held != Status.PROMPT] == Status.COMMITTED for held in committed]
    return Shadow(rows, x_ND, np.flatnonzero(np.concatenate(committed)))


def _held(at: RequestStep, context: StepContext) -> np.ndarray:
    """What stands in the block of a request: its status."""
    return context.host.status_BG[at.slot, at.block.start : at.block.stop]


def _decoded(at: RequestStep, context: StepContext) -> np.ndarray:
    """Positions of a block that its request decodes: what the caller gave is not in doubt."""
    return at.start + np.flatnonzero(_held(at, context) != Status.PROMPT)
