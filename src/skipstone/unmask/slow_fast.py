"""SlowFast sampling (Wei et al., arXiv 2506.10848): explore with care, then fill what is sure.

``generate_slow_fast_sampling`` in github.com/LiangrunFlora/Slow-Fast-Sampling (commit dd9958f),
without its cache of features. A block is decoded in cycles. For some steps a cycle explores: it
commits anywhere right of the last region and estimates how far the model is confident. Then it
fills the region up to there, until no mask of it is left. The published code explores for all of
its steps even where nothing is left to commit, which costs forwards and changes nothing; here the
next block begins. From the second step of a filling on, it cuts the sequence off where the region
ends, so that what is committed sees nothing right of it: that is ``cut``, and off here, since the
model was trained to see all.

Shape letters: B requests, G generation length, W estimates, C candidates of one request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.knob import Knob
from skipstone.unmask.base import UnmaskPolicy
from skipstone.unmask.ranking import rank_BG, ranks

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import Geometry, StepContext
    from skipstone.unmask.scores import HostScores, Scores


@dataclass(frozen=True)
class SlowFast(UnmaskPolicy):
    """Explore how far a block is certain for some steps, then fill it up to there, and so on."""

    value: float = 0.9
    """Where more than one mask reaches this confidence, all that do are committed, else the best; 0
    to 1."""
    explore: int = 6
    """Steps that a cycle explores; 1 or more."""
    reach: float = 0.3
    """The region is estimated to end with the furthest mask of this confidence, 0 to 1."""
    window: int = 2
    """So many estimates are held against each other, 1 or more."""
    spread: float = 1.0
    """Once their standard deviation is below this, the last of them holds; else their mean."""
    cut: bool = False
    """From its second step on, a filling sees nothing right of its region, as published."""

    knob = Knob("value", (0.7, 0.8, 0.95))

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        check_fields(self)
        for name in ("value", "reach"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                asked = getattr(self, name)
                raise ConfigError(f"slow_fast {name} is {asked}, must be between 0 and 1")
        for name in ("explore", "window"):
            if getattr(self, name) < 1:
                asked = getattr(self, name)
                raise ConfigError(f"slow_fast {name} is {asked}, must be at least 1")
        if not 0.0 <= self.spread < math.inf:
            asked = self.spread
            raise ConfigError(f"slow_fast spread is {asked}, must be 0 or more, and finite")

    @property
    def narrows(self) -> bool:
        """As it is set."""
        return self.cut

    def start(self, geometry: Geometry) -> _Cycles:
        """Where each request is in its cycle."""
        return _Cycles(geometry, self)

    def replay(self, scores: HostScores) -> np.ndarray:
        """The same."""
        start, stop = self._scope(scores)
        inside_C = (scores.offset_C >= start) & (scores.offset_C < stop) & scores.allowed_C
        confidence_C = np.where(inside_C, scores.confidence_C, -np.inf)
        sure_C = inside_C & (confidence_C >= self.value)
        return sure_C if sure_C.sum() > 1 else inside_C & (ranks(confidence_C) == 0)

    def _scope(self, scores: HostScores) -> tuple[int, int]:
        """Offsets among which a step commits, from the steps of its block up to it."""
        start = end = scores.block_start
        estimates, settled, stop = list[int](), False, scores.block_stop
        for step in (*(one for one in scores.earlier if one.block == scores.block), scores):
            masks = step.offset_C
            if len(estimates) >= self.explore and not ((masks >= start) & (masks < end)).any():
                start, estimates, settled = end, list[int](), False
            if len(estimates) >= self.explore:
                stop = end
                continue
            stop = scores.block_stop
            sure = masks[step.allowed_C & (step.confidence_C >= self.reach) & (masks >= start)]
            sure = sure[sure < stop]
            estimates.append(min(stop, int(sure.max(initial=start)) + 1))
            latest = np.array(estimates[-self.window :]) - scores.block_start
            if not settled:
                settled = len(latest) == self.window and bool(latest.std() < self.spread)
                length = latest[-1] if settled else int(latest.mean())
                end = scores.block_start + int(length)
        return start, stop


class _Cycles:
    """Where each request is in the cycle of its block."""

    def __init__(self, geometry: Geometry, policy: SlowFast) -> None:
        import torch

        shape, self._policy = (geometry.batch, 1), policy
        self._start_B1 = torch.zeros(shape, dtype=torch.int64, device=geometry.device)
        """Where the last region ended, counted from the start of the block."""
        self._length_B1 = self._start_B1.clone()
        """Where the region ends, so far as it is estimated."""
        self._explored_B1 = self._start_B1.clone()
        """Steps that the cycle has explored."""
        self._settled_B1 = self._start_B1.bool()
        """Whether the estimates are close enough to each other."""
        self._estimate_BW = self._start_B1.repeat(1, policy.window)
        """The latest ones, the newest last."""
        self.sees_B1 = self._start_B1 + geometry.gen_length
        """int64 [B, 1]: from which offset on the next step sees nothing, if it is to be cut."""

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """All that are sure, of what the cycle looks at, or the best."""
        import torch

        takes_part_B1, policy = context.forward_B1 >= 0, self._policy
        confidence_BG = scores.confidence_BG
        offset_BG = torch.arange(confidence_BG.shape[-1], device=confidence_BG.device)
        offset_BG = offset_BG - context.block_start_B1
        self._begin(offset_BG, context)
        explores_B1 = self._explored_B1 < policy.explore
        whole_B1 = context.block_stop_B1 - context.block_start_B1
        ahead_BG = (offset_BG >= self._start_B1) & (offset_BG < whole_B1)
        reached_BG = ahead_BG & (confidence_BG >= policy.reach)
        furthest_B1 = offset_BG.where(reached_BG, self._start_B1).amax(-1, keepdim=True)
        self._estimate((furthest_B1 + 1).minimum(whole_B1), explores_B1 & takes_part_B1)
        stop_B1 = whole_B1.where(explores_B1, self._length_B1)
        inside_BG = ahead_BG & (offset_BG < stop_B1) & (confidence_BG != -math.inf)
        confidence_BG = confidence_BG.where(inside_BG, -math.inf)
        sure_BG = inside_BG & (confidence_BG >= policy.value)
        best_BG = inside_BG & (rank_BG(confidence_BG) == 0)
        chosen_BG = sure_BG.where(sure_BG.sum(-1, keepdim=True) > 1, best_BG)
        left_BG = context.canvas.masked_BG() & ahead_BG & (offset_BG < stop_B1) & ~chosen_BG
        fills_on_B1 = ~explores_B1 & left_BG.any(-1, keepdim=True)
        end_B1 = (context.block_start_B1 + stop_B1).where(fills_on_B1, chosen_BG.shape[-1])
        self.sees_B1 = end_B1.where(takes_part_B1, self.sees_B1)
        return chosen_BG

    def _begin(self, offset_BG: Tensor, context: StepContext) -> None:
        """Begin a cycle where a block begins, and where a region has no masks left."""
        inside_BG = (offset_BG >= self._start_B1) & (offset_BG < self._length_B1)
        left_B1 = (context.canvas.masked_BG() & inside_BG).any(-1, keepdim=True)
        first_B1 = context.step_B1 == 0
        again_B1 = (self._explored_B1 >= self._policy.explore) & ~left_B1
        begins_B1 = (first_B1 | again_B1) & (context.forward_B1 >= 0)
        start_B1 = self._length_B1.masked_fill(first_B1, 0)
        self._start_B1 = start_B1.where(begins_B1, self._start_B1)
        self._explored_B1 = self._explored_B1.masked_fill(begins_B1, 0)
        self._settled_B1 = self._settled_B1 & ~begins_B1

    def _estimate(self, estimate_B1: Tensor, explores_B1: Tensor) -> None:
        """Take an estimate of the region's end, where a request explores."""
        import torch

        newer_BW = torch.cat([self._estimate_BW[:, 1:], estimate_B1], dim=-1)
        self._estimate_BW = newer_BW.where(explores_B1, self._estimate_BW)
        self._explored_B1 = self._explored_B1 + explores_B1
        window = self._policy.window
        count_B1 = self._explored_B1.clamp(max=window)
        known_BW = torch.arange(window, device=estimate_B1.device) >= window - count_B1
        latest_BW = self._estimate_BW.double() * known_BW
        mean_B1 = latest_BW.sum(-1, keepdim=True) / count_B1.clamp(min=1)
        apart_BW = (latest_BW - mean_B1) * known_BW
        spread_B1 = apart_BW.square().mean(-1, keepdim=True).sqrt()
        close_B1 = (count_B1 == window) & (spread_B1 < self._policy.spread)
        length_B1 = self._estimate_BW[:, -1:].where(close_B1, mean_B1.long())
        self._length_B1 = length_B1.where(explores_B1 & ~self._settled_B1, self._length_B1)
        self._settled_B1 = self._settled_B1 | (explores_B1 & close_B1)

    def forget(self, request: int) -> None:
        """A request begins with its first block."""
        for kept in (self._start_B1, self._length_B1, self._explored_B1, self._settled_B1):
            kept[request] = 0
