"""dLLM-Cache (Liu et al., arXiv 2506.06295): each layer computes the rows whose values moved most.

github.com/maomaocun/dLLM-cache (commit 17235bf), its hooks for LLaDA. All rows go through all
layers. At long intervals the rows of the prompt are computed, at short ones those of the response,
which is all that is decoded, later blocks among it. In between, each layer renews the values (V) of
all rows of the response, computes the share of these rows whose values have moved most, and adds to
all others what it added to them when it last computed them. Layer 1 computes all rows in each step.

The published code keeps what attention and MLP add apart, here their sum is kept: the same but for
rounding. It compares values in the dtype of the model; of bfloat16, whose cosines near 1 are all
but the same, that is the setting ``similarity_dtype``.
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
    LayerValues,
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

ValueDtype = Literal["float32", "model"]


@dataclass(frozen=True)
class DllmCache(CachePolicy):
    """Recompute prompt and response at intervals; in between, rows whose values moved most."""

    prompt_every: int = 50
    """Forwards of a request between those that compute its prompt, 1 or more, or 0 for the first
    alone."""
    response_every: int = 7
    """The same of its response: all positions that are decoded."""
    ratio: float = 0.25
    """Share of the response that each layer computes in between, by how far values have moved, 0 to
    1; with 0, values are not renewed either."""
    similarity_dtype: ValueDtype = "float32"
    """Dtype in which values are compared; that of the model as published."""

    knob = Knob("ratio", (0.1, 0.5))

    def __post_init__(self) -> None:
        """Refuse negative intervals, and what is no share."""
        check_fields(self)
        for name in ("prompt_every", "response_every"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"dllm {name} is {getattr(self, name)}, must be 1 or more, or 0 for the first "
                    f"forward alone"
                )
        if not 0 <= self.ratio <= 1:
            raise ConfigError(f"dllm ratio is {self.ratio}, must be 0 to 1")

    @property
    def needs(self) -> frozenset[CacheNeed]:
        """What layers add to rows that are not computed."""
        return frozenset(("layer_changes",))

    def start(self, geometry: Geometry) -> CacheSession:
        """Nothing is remembered: values lie in the K/V store.

        Raises:
            ConfigError: attention of the model is causal over blocks.
        """
        refuse_causal_blocks(geometry, "cache=dllm renews prompt and later blocks at intervals")
        return MovedValues(self, geometry.num_layers)

    def idle(self, steps: Sequence[StepTaken]) -> tuple[str, ...]:
        """Intervals that the request was too short for, and a share that nobody asked for."""
        said, forwards = list[str](), len(steps)
        for name in ("prompt_every", "response_every"):
            every = getattr(self, name)
            if every >= forwards > 1:
                said.append(f"{name}={every} never came due in {forwards} forwards")
        if self.response_every == 1 and self.ratio:
            said.append(
                f"ratio={self.ratio} has no effect: response_every=1 computes the response in each "
                f"step"
            )
        return tuple(said)

    def fresher(self) -> CachePolicy | None:
        """Intervals half as long; those of the published code where there are none."""
        prompt, response = self.prompt_every, self.response_every
        if prompt == response == 1:
            return None
        return replace(
            self,
            prompt_every=max(1, prompt // 2) if prompt else DllmCache.prompt_every,
            response_every=max(1, response // 2) if response else DllmCache.response_every,
        )

    def computes_prompt(self, at: RequestStep) -> bool:
        """Whether a step computes the prompt."""
        return _is_due(self.prompt_every, at.forward)

    def computes_response(self, at: RequestStep) -> bool:
        """Whether a step computes all of the response."""
        return _is_due(self.response_every, at.forward)


def _is_due(every: int, forward: int) -> bool:
    return forward % every == 0 if every else forward == 0


def _unit(values_NW: Tensor) -> Tensor:
    """Rows of length 1; zeros stay."""
    return values_NW / values_NW.norm(dim=-1, keepdim=True).clamp(min=1e-8)


class MovedValues(CacheSession):
    """Chooses the rows whose values have moved most."""

    def __init__(self, policy: DllmCache, num_layers: int) -> None:
        self.policy = policy
        self._layers = tuple(range(2, num_layers + 1))

    @property
    def chooses_in(self) -> tuple[int, ...]:
        """All layers but the first."""
        return self._layers

    def rows(self, context: StepContext) -> Rows:
        """All rows; a refresh where both intervals are over."""
        policy = self.policy
        due, others = context.split(
            lambda at: policy.computes_prompt(at) and policy.computes_response(at)
        )
        return due.changed_rows().beside(others.all_rows())

    def rows_in(
        self, layer: int, values: LayerValues, rows: Rows, context: StepContext
    ) -> Rows | None:
        """What is due, and of the other responses the rows whose values have moved most."""
        policy, wanted = self.policy, np.zeros(rows.num_rows, bool)
        moving = np.zeros(rows.num_rows, bool)
        for at in context.requests:
            mine = rows.request == at.slot
            # What scores the first new token is response, wherever it stands.
            first = at.reach.row_of(np.array([at.prompt_length]))[0]
            response = mine & (rows.position >= first)
            if policy.computes_prompt(at):
                wanted |= mine & ~response
            if policy.computes_response(at):
                wanted |= response
            elif policy.ratio:
                moving |= response
        if moving.any():
            index = np.flatnonzero(moving)
            wanted[index[self.most_moved(rows.take(index), values)]] = True
        return rows.take(np.flatnonzero(wanted))

    def most_moved(self, rows: Rows, values: LayerValues) -> np.ndarray:
        """Which rows each request computes, after all of their values are renewed."""
        old_NW, new_NW = values.renew(rows)
        if self.policy.similarity_dtype == "float32":
            old_NW, new_NW = old_NW.float(), new_NW.float()
        similarity = (_unit(new_NW) * _unit(old_NW)).sum(-1).float().cpu().numpy()
        chosen, first = list[np.ndarray](), 0
        for count in rows.counts:
            furthest = np.argsort(similarity[first : first + count], kind="stable")
            chosen.append(first + furthest[: int(count * self.policy.ratio)])
            first += count
        return np.concatenate(chosen)
