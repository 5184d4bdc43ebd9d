"""Keys as they are before rotation: what some caches hold, while ours holds them rotated.

Shape letters: N rows, W values of a row, U key/value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from skipstone.diagnosis.experiment import Patch
from skipstone.models.base import ModelConfig
from skipstone.ops.model import reference as ops
from skipstone.record import RunRecord, Tap, TensorKey, TensorRows, Trace


class Unrotated:
    """A trace whose keys are turned back to where they were before their rotation."""

    def __init__(self, trace: Trace, config: ModelConfig) -> None:
        """Show a trace of our engine."""
        self._trace, self._config = trace, config

    @property
    def records(self) -> Sequence[RunRecord]:
        """As they are, but for what they say of their keys."""
        return [_relabelled(record) for record in self._trace.records]

    def keys(self, sample: int) -> Sequence[TensorKey]:
        """As they are."""
        return self._trace.keys(sample)

    def tensor(self, sample: int, key: TensorKey) -> TensorRows | None:
        """One tensor; None if it was not recorded."""
        found = self._trace.tensor(sample, key)
        if found is None or key.tap is not Tap.KEY:
            return found
        return replace(found, values=_turned_back(found.values, found.positions, self._config))


def rotated(patch: Patch, config: ModelConfig) -> Patch:
    """A patch of keys that were taken before their rotation, as our store has them."""
    if patch.tap is not Tap.KEY:
        return patch
    angles_2NE = _angles(patch.positions, config)
    turned_NUE = ops.rotate(_heads(patch.values, config), angles_2NE)
    return replace(patch, values=turned_NUE.flatten(1).numpy())


def _relabelled(record: RunRecord) -> RunRecord:
    environment = record.header.environment | {"keys": "unrotated"}
    return replace(record, header=replace(record.header, environment=environment))


def _turned_back(values_NW: np.ndarray, positions: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Rotated the other way; the tables are float32, so their lengths are not quite one."""
    cos_NE, sin_NE = _angles(positions, config)
    back_NUE = ops.rotate(_heads(values_NW, config), torch.stack([cos_NE, -sin_NE]))
    length_N1E = (cos_NE.double() ** 2 + sin_NE.double() ** 2)[:, None]
    back_NUE[..., : config.rotary_width] /= length_N1E
    return back_NUE.flatten(1).numpy()


def _heads(values_NW: np.ndarray, config: ModelConfig) -> Tensor:
    values = torch.from_numpy(values_NW.astype(np.float64))
    return values.unflatten(-1, (-1, config.head_width))


def _angles(positions: np.ndarray, config: ModelConfig) -> Tensor:
    tables = ops.rotary_tables(
        config.max_length,
        config.rotary_width,
        config.rope_theta,
        torch.device("cpu"),
        inverted=config.rounds_rotation,
    )
    return tables[:, torch.from_numpy(positions.astype(np.int64))]
