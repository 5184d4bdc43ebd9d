"""What a foreign model returns: where its logits are, and which of them are kept.

Shape letters: B batch, N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeGuard

import numpy as np
from torch import Tensor

from skipstone.foreign.attach.snapshot import Snapshot, Values
from skipstone.foreign.rows.locate import Located

Unguided = list[tuple[np.ndarray, Values]]
"""Positions and logits of a call with a hidden prompt, for each sample."""

# Logits of one call and one request that are kept whole.
_LOGITS_BYTES = 256 << 20


def _field(output: object, name: str) -> object:
    """A part of what a model returned, by name."""
    if isinstance(output, Mapping):
        return output.get(name)
    return getattr(output, name, None)


def logits_of(output: object, mask_id: int) -> Tensor | None:
    """Logits [B, N, V] out of whatever a model returns, whatever they are called there."""
    named = output if isinstance(output, Tensor) else _field(output, "logits")
    if not isinstance(named, Tensor):
        scores = [x for x in _parts(output) if _scores_vocabulary(x, mask_id)]
        # States may be as wide. The first of a tuple is meant; of names that are not known, none.
        one = isinstance(output, Sequence) or len({x.shape[-1] for x in scores}) == 1
        named = scores[0] if scores and one else None
    if named is None or named.shape[-1] <= mask_id:
        return None
    return named if named.dim() == 3 else named.unsqueeze(0)


def _parts(output: object) -> Iterable[object]:
    """What a model returned, one after the other."""
    if isinstance(output, Mapping):
        return output.values()
    return output if isinstance(output, Sequence) else getattr(output, "__dict__", {}).values()


def _scores_vocabulary(part: object, mask_id: int) -> TypeGuard[Tensor]:
    """Whether these may be scores [B, N, V] or [N, V] of a vocabulary that has the mask."""
    if not isinstance(part, Tensor) or not part.is_floating_point():
        return False
    return part.dim() in (2, 3) and part.shape[-1] > mask_id


def unguided(output: object, located: Located, mask_id: int) -> Unguided:
    """The logits of a call with a hidden prompt; none if they are too large or elsewhere."""
    logits_BNV, rows_BN = logits_of(output, mask_id), located.placed.positions_BN
    if logits_BNV is None or logits_BNV.shape[:2] != rows_BN.shape:
        return []
    if logits_BNV[0].nbytes > _LOGITS_BYTES:
        return []
    snapshot = Snapshot()
    return [(rows, snapshot.take(x)) for rows, x in zip(rows_BN, logits_BNV, strict=True)]


def rows_kept(logits_NV: Tensor, masks: np.ndarray) -> np.ndarray:
    """Rows whose logits are kept: all, for loops may use more than those of masks.

    Where they would be too large, the masks and the rows beside them: a loop may score a position
    by its neighbour.
    """
    rows = logits_NV.shape[0]
    if logits_NV.nbytes <= _LOGITS_BYTES:
        return np.arange(rows)
    near = np.concatenate([masks - 1, masks, masks + 1])
    return np.unique(near[(near >= 0) & (near < rows)])
