"""DyLLM (Lee et al., arXiv 2603.08026): each layer computes the MLP of rows whose context moved.

github.com/scale-snu/DyLLM, its engine, attention and LLaDA. The first forwards compute everything.
After them a step computes the response, which is all that is decoded, later blocks among it, and at
short intervals the prompt as well. Each layer attends for all of these rows. Where what the heads
give a row (its attention context, before the last product) points where it did when the row last
came by, the layer adds to it what its MLP added last, and computes the MLP of all others.

Published code also spares a part of attention: keys and values are renewed only of rows whose
context moved in the layer before, and the contexts of all other rows are corrected by what these
values changed. Here attention is computed as the model has it, which that correction approaches.
What an MLP adds is kept as the difference that it makes to the row: the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

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
    from torch import Tensor

    from skipstone.canvas import Geometry, RequestStep, StepContext
    from skipstone.rows import Rows

ContextDtype = Literal["float32", "model"]


@dataclass(frozen=True)
class DyllmCache(CachePolicy):
    """Attend for all rows of the response; in each layer, compute the MLP of rows that moved."""

    threshold: float = 0.99
    """A layer computes the MLP of a row whose attention context has a cosine below this to that of
    the last step; -1 to 1, and 1 computes all."""
    warmup: int = 4
    """Forwards of a request that compute everything; 1 or more."""
    prompt_every: int = 4
    """After them, the prompt is computed in each forward that is a multiple of this, the first
    being 1; 0 is never."""
    similarity_dtype: ContextDtype = "float32"
    """Dtype in which contexts are compared: float32 as published, or that of the model."""

    knob = Knob("threshold", (0.9, 0.995))

    def __post_init__(self) -> None:
        """Refuse what is no cosine, and counts out of their range."""
        check_fields(self)
        if not -1.0 <= self.threshold <= 1.0:
            raise ConfigError(
                f"dyllm threshold is {self.threshold}, must be a cosine between -1 and 1"
            )
        if self.warmup < 1:
            raise ConfigError(
                f"dyllm warmup is {self.warmup}, must be 1 or more: there is nothing to compare "
                f"with before"
            )
        if self.prompt_every < 0:
            raise ConfigError(
                f"dyllm prompt_every is {self.prompt_every}, must be 1 or more, or 0 for the "
                f"warm-up alone"
            )

    @property
    def needs(self) -> frozenset[CacheNeed]:
        """What attention and MLP gave rows before."""
        return frozenset(("contexts",))

    def start(self, geometry: Geometry) -> CacheSession:
        """Nothing is remembered here: the engine keeps contexts.

        Raises:
            ConfigError: attention of the model is causal over blocks.
        """
        refuse_causal_blocks(
            geometry,
            "cache=dyllm computes the whole response in each step and the prompt at intervals",
        )
        return Salient(self, geometry.num_layers)

    def idle(self, steps: Sequence[StepTaken]) -> tuple[str, ...]:
        """A threshold that leaves nothing out, and an interval that never was over."""
        said, forwards = list[str](), len(steps)
        if self.threshold == 1.0:
            said.append("threshold=1.0 leaves nothing out: layers compute the MLP of all rows")
        due = range(self.warmup + 1, forwards + 1)
        if due and self.prompt_every and not any(n % self.prompt_every == 0 for n in due):
            said.append(f"prompt_every={self.prompt_every} never came due in {forwards} forwards")
        return tuple(said)

    def fresher(self) -> CachePolicy | None:
        """Half as far from a cosine of 1, and the prompt twice as often."""
        threshold, every = self.threshold, self.prompt_every
        if threshold == every == 1:
            return None
        return replace(
            self,
            threshold=round(1 - (1 - threshold) / 2, 6),
            prompt_every=max(1, every // 2) if every else DyllmCache.prompt_every,
        )

    def computes_all(self, at: RequestStep) -> bool:
        """Whether a step belongs to the warm-up."""
        return at.forward < self.warmup

    def computes_prompt(self, at: RequestStep) -> bool:
        """Whether a step computes the prompt, warm-up or not."""
        every = self.prompt_every
        return self.computes_all(at) or (every > 0 and (at.forward + 1) % every == 0)


class Salient(CacheSession):
    """Chooses the rows whose contexts have moved."""

    def __init__(self, policy: DyllmCache, num_layers: int) -> None:
        self.policy = policy
        self._layers = tuple(range(1, num_layers + 1))

    @property
    def chooses_mlp_in(self) -> tuple[int, ...]:
        """All layers."""
        return self._layers

    def rows(self, context: StepContext) -> Rows:
        """All rows, those of a warm-up as a refresh; the prompt's where it is due."""
        warm, others = context.split(self.policy.computes_all)
        whole, sparse = others.split(self.policy.computes_prompt)
        return warm.changed_rows().beside(whole.all_rows()).beside(_response(sparse))

    def mlp_rows_in(
        self,
        layer: int,
        before_NW: Tensor,
        context_NW: Tensor,
        rows: Rows,
        context: StepContext,
    ) -> Rows | None:
        """Those whose contexts have a cosine below the threshold to what they were."""
        if self.policy.threshold == 1.0:
            return None
        if self.policy.similarity_dtype == "float32":
            before_NW, context_NW = before_NW.float(), context_NW.float()
        product_N = (before_NW * context_NW).sum(-1)
        squares_N = before_NW.square().sum(-1) * context_NW.square().sum(-1)
        # A context of zeros, or with a NaN, has no direction: its row is computed.
        cosine_N = product_N * squares_N.clamp(min=1e-30).rsqrt()
        cosine = cosine_N.float().cpu().numpy()
        return rows.take(np.flatnonzero(~(cosine >= self.policy.threshold)))


def _response(context: StepContext) -> Rows:
    """All that is decoded, and the row that scores the first of it."""
    rows = context.all_rows()
    first = np.zeros(context.canvas.batch, np.int64)
    for at in context.requests:
        first[at.slot] = at.reach.row_of(np.array([at.prompt_length]))[0]
    return rows.take(np.flatnonzero(rows.position >= first[rows.request]))
