"""Token skip by similarity of hidden states between steps.

Shape letters: N packed rows, D width, S compared layers (K-1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from skipstone.canvas import Geometry, Moment
from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.ops import dispatch as ops
from skipstone.rows import Rows
from skipstone.skip.base import SkipScores
from skipstone.skip.references import ReferenceStore

Reference = Literal["last_computed", "previous_step"]
SimilarityDtype = Literal["bfloat16", "float32", "float64"]


@dataclass(frozen=True)
class NoSkip:
    """Every row goes through every layer."""

    def start(self, geometry: Geometry) -> None:
        """Nothing to remember."""


@dataclass(frozen=True)
class CosineSkip:
    """Rows whose states after layers 1..K-1 have hardly changed leave before layer K.

    Layers are counted from 1. With ``skip_layer_k`` = K the K-1 states after layers 1..K-1 of a row
    are compared with its reference at the same absolute position. If the smallest cosine is at
    least ``skip_outlier`` and the mean is above ``skip_threshold`` (strictly; cosines are clamped
    at 1), the row is stable and its layers K.. are not computed. The embedding is not compared: it
    never changes while a token is a mask. A threshold of 1 never skips. References are kept for the
    rows that are expected to be judged; a row without one goes on.
    """

    skip_layer_k: int = 18
    """K: the first layer that a stable row does not compute; K-1 states are compared."""
    skip_threshold: float = 0.9999
    """A stable row's mean similarity is above this."""
    skip_outlier: float = 0.7
    """A stable row's smallest similarity is at least this."""
    similarity_dtype: SimilarityDtype = "float32"
    """Dtype that the cosine is computed in; bfloat16 rounds everything near 1."""
    reference: Reference = "last_computed"
    """Compare with the last step in which the row went all the way, or with the step before."""
    keep_committed: bool = True
    """A row committed in the step before may not skip: its K/V still speak of a mask."""
    keep_neighbours: bool = True
    """The direct neighbours of such a row may not skip either."""

    def __post_init__(self) -> None:
        """Refuse settings outside their ranges."""
        check_fields(self)
        if self.skip_layer_k < 2:
            raise ConfigError(f"skip_layer_k is {self.skip_layer_k}, must be at least 2")
        for name in ("skip_threshold", "skip_outlier"):
            value = getattr(self, name)
            if not -1.0 <= value <= 1.0:
                raise ConfigError(f"{name} is {value}, must be a cosine between -1 and 1")

    def start(self, geometry: Geometry) -> CosineSession:
        """Memory for one run: the reference states of every position."""
        if self.skip_layer_k > geometry.num_layers:
            raise ConfigError(
                f"skip_layer_k is {self.skip_layer_k}, beyond the {geometry.num_layers} layers of "
                f"this model; use 2 to {geometry.num_layers}"
            )
        return CosineSession(self, geometry)


class CosineSession:
    """Reference states by absolute position, and the judgement of each step."""

    def __init__(self, policy: CosineSkip, geometry: Geometry) -> None:
        """Start with no reference; the forward after the first ``expect`` gives some."""
        self.scores: SkipScores | None = None
        self._policy = policy
        self._dtype = getattr(torch, policy.similarity_dtype)
        self._store = ReferenceStore(policy.skip_layer_k - 1, geometry)
        self._states = list[Tensor]()

    @property
    def decides_after(self) -> tuple[int, ...]:
        """The last compared layer."""
        return (self._policy.skip_layer_k - 1,)

    def expect(self, rows: Rows) -> None:
        """Give these rows, and no others of their requests, a place for their reference."""
        self._store.expect(rows)

    def learn(self, layer: int, x_ND: Tensor, rows: Rows, moment: Moment) -> None:
        """Take the states of rows that go all the way as their reference, where expected."""
        self.scores = None
        if layer < self._policy.skip_layer_k:
            # Layer by layer: a refresh has too many rows for its states to be collected.
            held = self._store.layer(layer)
            ops.replace([x_ND.contiguous()], held, rows, None, moment.forward_B1)

    def forget(self, request: int) -> None:
        """References of another request are no references."""
        self._store.forget(request)

    def keep(self, layer: int, x_ND: Tensor, rows: Rows, moment: Moment) -> Tensor | None:
        """Collect states up to layer K-1, then judge all rows and layers at once."""
        if layer == 1:
            self._states.clear()
        if layer >= self._policy.skip_layer_k:
            return None
        self._states.append(x_ND.contiguous())
        if layer < self._policy.skip_layer_k - 1:
            return None
        keep_N = self._judge(self._states, rows, moment)
        self._states.clear()
        return keep_N

    def _judge(self, states: Sequence[Tensor], rows: Rows, moment: Moment) -> Tensor:
        policy, held = self._policy, self._store.held
        bars = ops.Bars(
            outlier=policy.skip_outlier,
            threshold=policy.skip_threshold,
            committed=policy.keep_committed,
            neighbours=policy.keep_neighbours,
        )
        similarity_SN = ops.similarity(states, held, rows, self._dtype)
        judged = ops.judge(similarity_SN, held, rows, moment.committed_BL, bars)
        renewed_N = judged.keep_N if policy.reference == "last_computed" else None
        ops.replace(states, held, rows, renewed_N, moment.forward_B1)
        self.scores = SkipScores(
            rows=rows,
            similarity_SN=similarity_SN,
            smallest_N=judged.smallest_N,
            mean_N=judged.mean_N,
            stable_N=judged.stable_N,
            forced_N=judged.forced_N,
            reference_position_N=judged.stamp_2N[0],
            reference_forward_N=judged.stamp_2N[1],
        )
        return judged.keep_N
