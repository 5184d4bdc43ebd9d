"""Sparse-dLLM (Song et al., arXiv 2508.02558): a block sees a share of the keys outside it.

github.com/OpenMOSS/Sparse-dLLM (commit 3fd8986), ``CustomCache`` and ``generate`` for LLaDA. The
first two steps of a block compute all rows. In the second, each layer scores every key outside the
block, left and right of it, by the block's mean query, and keeps a share of them. From the third
step on the block alone is computed, over the kept keys and its own.

Neighbours that share a score are equal where the cut falls. The published code leaves to
``torch.topk`` which of them are kept, which promises no order and gives another one on a GPU; here
it is the lowest positions, and the published way is the setting ``ties``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from skipstone.cache.base import (
    CacheNeed,
    CachePolicy,
    CacheSession,
    StepTaken,
    refuse_causal_blocks,
)
from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.knob import Knob

if TYPE_CHECKING:
    from skipstone.canvas import Geometry

Ties = Literal["position", "torch"]

CHOOSES_AT = 1
"""The step of a block in which keys are chosen; up to there all rows are computed."""


@dataclass(frozen=True)
class SparseCache(CachePolicy):
    """Recompute the block alone, which sees a share of the keys outside it, another per layer."""

    keep_ratio: float = 0.5
    """Share of the keys outside the block that it sees from its third step on, 0 to 1; rounded
    down. What is hidden is masked: rows are saved as by the dual cache, and no work of attention;
    nor are layers computed as CUDA graphs."""
    kernel_size: int = 3
    """So many neighbouring keys, an odd number, share the best score among them; 1: each has its
    own."""

    ties: Ties = "position"
    """Which of equal keys are kept where not all can be: the lowest positions, or those that
    ``torch.topk`` happens to give, as published."""

    knob = Knob("keep_ratio", (0.25, 0.75))

    def __post_init__(self) -> None:
        """Refuse what is no share, and a window without a centre."""
        check_fields(self)
        if not 0 <= self.keep_ratio <= 1:
            raise ConfigError(f"sparse keep_ratio is {self.keep_ratio}, must be 0 to 1")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ConfigError(
                f"sparse kernel_size is {self.kernel_size}, must be an odd number, 1 or more: as "
                f"many neighbours on each side"
            )

    @property
    def pure(self) -> bool:
        """The step alone decides which rows; keys are chosen anew in each block."""
        return True

    @property
    def needs(self) -> frozenset[CacheNeed]:
        """Queries and keys, some of which it hides."""
        return frozenset(("keys",))

    def start(self, geometry: Geometry) -> CacheSession:
        """Which keys each request sees.

        Raises:
            ConfigError: attention of the model is causal over blocks.
        """
        # Policies are read without torch.
        from skipstone.cache.kept_keys import KeptKeys

        refuse_causal_blocks(
            geometry,
            "cache=sparse computes all rows twice as a block begins, to choose among keys "
            "left and right of it",
        )
        return KeptKeys(
            geometry,
            at_step=CHOOSES_AT,
            share=self.keep_ratio,
            kernel_size=self.kernel_size,
            lowest=self.ties == "position",
        )

    def session_bytes(self, geometry: Geometry) -> int:
        """A byte for each layer and position: whether it is seen."""
        return geometry.num_layers * geometry.batch * geometry.length

    def idle(self, steps: Sequence[StepTaken]) -> tuple[str, ...]:
        """A share that hides nothing, and blocks that were done before anything was hidden."""
        if self.keep_ratio == 1:
            return ("keep_ratio=1.0 hides no key",)
        if any(step.step > CHOOSES_AT and not step.refresh for step in steps):
            return ()
        return (f"no key was hidden: no block took more than {CHOOSES_AT + 1} steps",)

    def unhidden(self) -> CachePolicy | None:
        """All keys are kept."""
        return None if self.keep_ratio == 1 else replace(self, keep_ratio=1.0)
