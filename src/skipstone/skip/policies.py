"""Token skip by similarity of hidden states between steps: its settings, and its rule once more.

Shape letters: S compared layers, J judged rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.knob import Knob
from skipstone.skip.base import Bar, SkipPolicy, SkipReplay

if TYPE_CHECKING:
    from skipstone.canvas import Geometry
    from skipstone.skip.cosine import CosineSession

_INDEX_BYTES = 8
"""Of an int64."""

Reference = Literal["last_computed", "previous_step"]
SimilarityDtype = Literal["bfloat16", "float32", "float64"]


@dataclass(frozen=True)
class NoSkip(SkipPolicy):
    """Every row goes through every layer."""

    @property
    def pure(self) -> bool:
        """Nothing is remembered."""
        return True

    def start(self, geometry: Geometry) -> None:
        """Nothing to remember."""


@dataclass(frozen=True)
class CosineSkip(SkipPolicy):
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

    knob = Knob("skip_threshold", (0.9, 0.99, 0.999))

    def __post_init__(self) -> None:
        """Refuse settings outside their ranges."""
        check_fields(self)
        if self.skip_layer_k < 2:
            raise ConfigError(f"skip_layer_k is {self.skip_layer_k}, must be at least 2")
        for name in ("skip_threshold", "skip_outlier"):
            value = getattr(self, name)
            if not -1.0 <= value <= 1.0:
                raise ConfigError(f"{name} is {value}, must be a cosine between -1 and 1")

    @property
    def pure(self) -> bool:
        """What is remembered of a block ends with it: its rows are compared with their own."""
        return True

    @property
    def bar(self) -> Bar:
        """The threshold of the mean."""
        return Bar("skip_threshold", self.skip_threshold, self.similarity_dtype)

    def replay(self, similarity_JS: np.ndarray) -> SkipReplay:
        """The mean is held against the threshold, the smallest against the outlier."""
        mean_J = similarity_JS.mean(1)
        smallest_J = similarity_JS.min(1, initial=np.inf)
        return SkipReplay(
            measure_J=mean_J,
            slack_J=np.minimum(mean_J - self.skip_threshold, smallest_J - self.skip_outlier),
            stable_J=(smallest_J >= self.skip_outlier) & (mean_J > self.skip_threshold),
        )

    def session_bytes(self, geometry: Geometry, rows: int) -> int:
        """References of the rows that are expected and a spare one, with their stamps and slots.

        While requests with longer blocks than all before them make room for theirs, the references
        of these are there twice.
        """
        state = (self.skip_layer_k - 1) * geometry.width * geometry.dtype.itemsize
        slots, stamp, index = rows + 1, 2 * _INDEX_BYTES, geometry.length * _INDEX_BYTES
        return geometry.batch * (slots * (state + stamp) + index)

    def start(self, geometry: Geometry) -> CosineSession:
        """Memory for one run: the reference states of every position."""
        if self.skip_layer_k > geometry.num_layers:
            raise ConfigError(
                f"skip_layer_k is {self.skip_layer_k}, beyond the {geometry.num_layers} layers of "
                f"this model; use 2 to {geometry.num_layers}"
            )
        # The settings are read without torch.
        import torch

        from skipstone.ops.decide import dispatch as ops
        from skipstone.skip.cosine import CosineSession

        bars = ops.Bars(
            outlier=self.skip_outlier,
            threshold=self.skip_threshold,
            committed=self.keep_committed,
            neighbours=self.keep_neighbours,
        )
        return CosineSession(
            geometry,
            bars,
            layers=self.skip_layer_k - 1,
            dtype=getattr(torch, self.similarity_dtype),
            renewed=self.reference == "last_computed",
        )
