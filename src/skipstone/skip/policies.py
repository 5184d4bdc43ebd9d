"""Token skip by similarity of hidden states between steps.

Shape letters: B requests, L canvas length, N packed rows, D width, S compared layers (K-1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from skipstone.canvas import Geometry, Moment
from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.ops import reference as ops
from skipstone.rows import Rows
from skipstone.skip.base import SkipScores

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
    never changes while a token is a mask. A threshold of 1 never skips.
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
        """Allocate the references; the first step of a block fills them."""
        self.scores: SkipScores | None = None
        self._policy = policy
        self._dtype = getattr(torch, policy.similarity_dtype)
        layers = policy.skip_layer_k - 1
        shape = (layers, geometry.batch, geometry.length, geometry.width)
        self._reference_SBLD = torch.empty(shape, dtype=geometry.dtype, device=geometry.device)
        # Travels with the references, so that whoever watches sees whose states were compared.
        stamps = (2, geometry.batch, geometry.length)
        self._stamp_2BL = torch.full(stamps, -1, dtype=torch.int64, device=geometry.device)
        self._states = list[Tensor]()

    @property
    def decides_after(self) -> tuple[int, ...]:
        """The last compared layer."""
        return (self._policy.skip_layer_k - 1,)

    def learn(self, layer: int, x_ND: Tensor, rows: Rows, moment: Moment) -> None:
        """Take the states of rows that go all the way as their reference."""
        self.scores = None
        if layer < self._policy.skip_layer_k:
            self._reference_SBLD[layer - 1][rows.request_N, rows.position_N] = x_ND
        if layer == 1:
            self._stamp_2BL[:, rows.request_N, rows.position_N] = _stamp_2N(rows, moment)

    def expect(self, rows: Rows) -> None:
        """Everything is kept."""

    def forget(self, request: int) -> None:
        """References of another request are no references."""
        self._stamp_2BL[:, request] = -1

    def keep(self, layer: int, x_ND: Tensor, rows: Rows, moment: Moment) -> Tensor | None:
        """Collect states up to layer K-1, then judge all rows and layers at once."""
        if layer == 1:
            self._states.clear()
        if layer >= self._policy.skip_layer_k:
            return None
        self._states.append(x_ND)
        if layer < self._policy.skip_layer_k - 1:
            return None
        return self._judge(torch.stack(self._states), rows, moment)

    def _judge(self, now_SND: Tensor, rows: Rows, moment: Moment) -> Tensor:
        policy = self._policy
        where = (slice(None), rows.request_N, rows.position_N)
        before_SND, stamp_2N = self._reference_SBLD[where], self._stamp_2BL[where]
        similarity_SN = ops.similarity(now_SND, before_SND, self._dtype)
        smallest_N, mean_N = similarity_SN.amin(0), similarity_SN.mean(0)
        stable_N = (smallest_N >= policy.skip_outlier) & (mean_N > policy.skip_threshold)
        forced_N = self._forced(rows, moment)
        keep_N = ~stable_N | forced_N
        new_2N = _stamp_2N(rows, moment)
        if policy.reference == "last_computed":
            now_SND = torch.where(keep_N[None, :, None], now_SND, before_SND)
            new_2N = torch.where(keep_N, new_2N, stamp_2N)
        self._reference_SBLD[where], self._stamp_2BL[where] = now_SND, new_2N
        self.scores = SkipScores(
            rows, similarity_SN, smallest_N, mean_N, stable_N, forced_N, stamp_2N[0], stamp_2N[1]
        )
        return keep_N

    def _forced(self, rows: Rows, moment: Moment) -> Tensor:
        """Rows that were just committed and their direct neighbours, as far as switched on."""
        committed_BL = moment.committed_BL
        near_BL = torch.zeros_like(committed_BL)
        if self._policy.keep_committed:
            near_BL |= committed_BL
        if self._policy.keep_neighbours:
            near_BL[:, 1:] |= committed_BL[:, :-1]
            near_BL[:, :-1] |= committed_BL[:, 1:]
        near_N = near_BL[rows.request_N, rows.position_N]
        return near_N if rows.fresh_N is None else near_N | rows.fresh_N


def _stamp_2N(rows: Rows, moment: Moment) -> Tensor:
    """Position and forward of each row."""
    return torch.stack([rows.position_N, moment.forward_B1[rows.request_N, 0]])
