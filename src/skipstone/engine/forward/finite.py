"""Where a number that is not finite comes from: looked for only once one has been seen.

The step itself pays nothing: a NaN among the scores travels to the host with what is read anyway
(``Status.BROKEN``). Then the forward is computed again, one layer after the other.

Shape letters: N packed rows, D width, B requests, L canvas length.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skipstone.engine.forward.eager import EagerLayers
from skipstone.errors import NotFiniteError
from skipstone.memory.store import KVStore
from skipstone.models.base import Network
from skipstone.rows import Rows

# Rows whose logits are looked at together.
_PIECE = 64


def not_finite(
    network: Network, store: KVStore, ids_BL: Tensor, rows: Rows, whose: str
) -> NotFiniteError:
    """The error that says where the first number that is not finite was born.

    Args:
        network: computes the forward again.
        store: as the forward found it; K/V of ``rows`` are overwritten.
        ids_BL: int64, the canvas that the forward saw.
        rows: what it computed.
        whose: the request and its step, for the message.
    """
    where = _first_layer(network, store, ids_BL, rows)
    return NotFiniteError(f"{whose}: {where}; {_remedy(network)}")


def _first_layer(network: Network, store: KVStore, ids_BL: Tensor, rows: Rows) -> str:
    """The first stage of a forward that is not finite, and at which position."""
    num_layers = network.config.num_layers
    x_ND = network.embed(ids_BL[rows.request_N, rows.position_N])
    if (position := _position(x_ND, rows)) is not None:
        return f"the embedding is not finite, {position}"
    layers = EagerLayers(network, store).run(1, num_layers, x_ND, rows, every=True)
    for layer, states_ND in layers:
        if (position := _position(states_ND, rows)) is not None:
            return f"layer {layer} of {num_layers} is the first that is not finite, {position}"
        x_ND = states_ND
    for first in range(0, rows.num_rows, _PIECE):
        part = rows.take(np.arange(first, min(first + _PIECE, rows.num_rows)))
        logits_NV = network.head(network.final_norm(x_ND[first : first + _PIECE]))
        if (position := _position(logits_NV, part)) is not None:
            return f"all layers are finite, the logits are not, {position}"
    return "the scores are not finite, though the same forward computed again is"


def _position(values_NX: Tensor, rows: Rows) -> str | None:
    """The first position whose values are not all finite."""
    broken = np.flatnonzero(~values_NX.isfinite().all(-1).cpu().numpy())
    return f"at position {rows.position[broken[0]]}" if broken.size else None


def _remedy(network: Network) -> str:
    """What to do: half precision overflows, and weights may have been broken."""
    for name, weight in network.published().items():
        if not weight.isfinite().all():
            return f"the weight {name} holds NaN or infinite values: load the checkpoint again"
    if network.dtype == torch.float16:
        return "float16 reaches no further than 65504: choose dtype='bfloat16' or 'float32'"
    return "the weights are finite: check that they belong to this config.json"
