"""What an unmask policy is: it says which masks a step commits.

Shape letters: B requests, G generation length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from skipstone.canvas import Geometry, RequestStep, StepContext


@dataclass(frozen=True, eq=False)
class Scores:
    """What the model says about every offset of the generation region."""

    token_BG: Tensor
    """int64: the token that would be committed."""
    confidence_BG: Tensor
    """float64: its probability; -inf where nothing may be committed in this step."""


class UnmaskSession(Protocol):
    """What an unmask policy remembers during one run."""

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """Which offsets are committed now: bool [B, G]. Equal confidence: lowest position first.

        No host read, no boolean indexing, no shape that depends on values: the same code runs
        inside a captured graph.
        """
        ...

    def bound(self, rank_C: np.ndarray, at: RequestStep) -> np.ndarray | None:
        """What ``select`` asks of offsets, for those who record it, on the host.

        Args:
            rank_C: int32 [C], ranks by confidence, 0 for the surest.
            at: where the request is.

        Returns:
            float64 [C], the confidence that each must reach; None if there is no such bound.
        """
        ...

    def forget(self, request: int) -> None:
        """Drop what was remembered of a request: another one takes its place in the batch."""
        ...


@runtime_checkable
class UnmaskPolicy(Protocol):
    """A frozen dataclass whose fields are its settings.

    It may say that it is ``pure``: that what it selects depends on the scores and the step alone,
    and that it selects something wherever it may. Then steps of it may be launched ahead.
    """

    @property
    def uses_steps(self) -> bool:
        """Whether the number of steps decides how much is committed."""
        ...

    @property
    def uses_seed(self) -> bool:
        """Whether random numbers decide what is committed."""
        ...

    def start(self, geometry: Geometry) -> UnmaskSession:
        """Memory for one run."""
        ...
