"""Faults of what is committed: confidences, ties, schedules, stops and random numbers.

Shape letters: B requests, G generation length, N packed rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from faults.engine.instead import Fault, instead
from skipstone.blocks import Block
from skipstone.canvas import Canvas, Geometry, HostCanvas, RequestStep, Status, StepContext
from skipstone.engine.progress import RequestState
from skipstone.engine.request import Request
from skipstone.engine.score.scorer import Scorer
from skipstone.ops.decide import reference as ops
from skipstone.rows import Rows
from skipstone.unmask import (
    Credit,
    Editing,
    Factor,
    Fixed,
    Klass,
    LocalLeap,
    Scores,
    SlowFast,
    Threshold,
    UnmaskSession,
    Wino,
    certainty,
)
from skipstone.unmask.ranking import rank_BG


def confidence_in(kind: torch.dtype) -> Fault:
    """The softmax of the confidence runs in a shorter dtype than float64."""

    def wrong(
        logits_NV: Tensor,
        mask_id: int,
        gumbel_NV: Tensor | None,
        *,
        entropy: bool,
        cuts: Sequence[ops.Cut] = (),
    ) -> ops.Scored:
        probability_NV = logits_NV.to(kind).softmax(-1)
        entropy_N = torch.special.entr(probability_NV.double()).sum(-1) if entropy else None
        probability_NV[:, mask_id] = 0
        top = probability_NV.double().topk(2, dim=-1)
        return ops.Scored(
            top.indices[:, 0],
            top.values[:, 0],
            top.indices[:, 1],
            top.values[:, 1],
            entropy_N,
        )

    return lambda: instead(ops, "score", wrong)


@contextmanager
def ties_from_the_right() -> Generator[None, None, None]:
    """Equal confidences are committed from the right."""

    def wrong(confidence_BG: Tensor) -> Tensor:
        turned_BG = confidence_BG.flip(-1)
        order_BG = turned_BG.argsort(dim=-1, descending=True, stable=True)
        return order_BG.argsort(dim=-1, stable=True).flip(-1)

    with _ranked_by(wrong):
        yield


@contextmanager
def ties_at_random() -> Generator[None, None, None]:
    """Equal confidences are committed in no order, as by a sort that is not stable."""

    def wrong(confidence_BG: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(5)
        shuffled = torch.randperm(confidence_BG.shape[-1], generator=generator)
        mixed_BG = confidence_BG[:, shuffled]
        order_BG = shuffled[mixed_BG.argsort(dim=-1, descending=True, stable=True)]
        return order_BG.argsort(dim=-1, stable=True)

    with _ranked_by(wrong):
        yield


@contextmanager
def _ranked_by(rank: object) -> Generator[None, None, None]:
    """Every rule, and what is offered to it, gets the other ranks."""
    with instead(ops, "rank", rank):
        yield


@contextmanager
def half_the_steps() -> Generator[None, None, None]:
    """The schedule plans half of the steps that were asked for."""
    budget = Request.budget

    def wrong(self: Request, block: Block) -> int:
        return max(1, budget(self, block) // 2)

    with instead(Request, "budget", wrong):
        yield


@contextmanager
def share_rounded_down() -> Generator[None, None, None]:
    """The share of a step is rounded down, so that the last step gets the remainder."""

    def wrong(self: Fixed, scores: Scores, context: StepContext) -> Tensor:
        confidence_BG, block = scores.confidence_BG, context.only.block
        left_B1 = context.canvas.masked_BG()[:, block.start : block.stop].sum(-1, keepdim=True)
        share_B1 = left_B1 // max(1, context.only.step_budget - context.only.step)
        return (rank_BG(confidence_BG) < share_B1) & ~confidence_BG.isneginf()

    with instead(Fixed, "select", wrong):
        yield


@contextmanager
def leftmost_first() -> Generator[None, None, None]:
    """The schedule commits from left to right, whatever the confidence."""
    select = Fixed.select

    def wrong(self: Fixed, scores: Scores, context: StepContext) -> Tensor:
        falling_BG = (
            -torch.arange(scores.confidence_BG.shape[1]).double().expand_as(scores.confidence_BG)
        )
        none_BG = scores.confidence_BG.isneginf()
        return select(
            self, Scores(scores.token_BG, falling_BG.masked_fill(none_BG, -torch.inf)), context
        )

    with instead(Fixed, "select", wrong):
        yield


def threshold_too_low(value: float) -> Fault:
    """The threshold that is compared with is lower than the one that was set."""

    def wrong(self: Threshold, scores: Scores, context: StepContext) -> Tensor:
        confidence_BG = scores.confidence_BG
        best_BG = rank_BG(confidence_BG) == 0
        return ((confidence_BG >= value) | best_BG) & ~confidence_BG.isneginf()

    return lambda: instead(Threshold, "select", wrong)


@contextmanager
def factor_without_rank() -> Generator[None, None, None]:
    """The bound of the factor rule does not rise with the number of commits."""

    def wrong(self: Factor, scores: Scores, context: StepContext) -> Tensor:
        confidence_BG = scores.confidence_BG
        best_BG = rank_BG(confidence_BG) == 0
        enough_BG = confidence_BG >= 1.0 - self.value / 2.0
        return (enough_BG | best_BG) & ~confidence_BG.isneginf()

    with instead(Factor, "select", wrong):
        yield


@contextmanager
def edits_at_any_odds() -> Generator[None, None, None]:
    """Committed tokens are replaced wherever another one is more probable, whatever the bound."""
    select = Editing.select

    def wrong(self: Editing, scores: Scores, context: StepContext) -> Tensor:
        return select(replace(self, edit=0.0), scores, context)

    with instead(Editing, "select", wrong):
        yield


@contextmanager
def revocation_forgotten() -> Generator[None, None, None]:
    """Of the tokens that WINO takes back, the first stays."""
    select = Wino.select

    def wrong(self: Wino, scores: Scores, context: StepContext) -> Tensor:
        chosen_BG = select(self, scores, context)
        back_BG = chosen_BG & ~context.canvas.masked_BG()
        return chosen_BG & ~(back_BG & (back_BG.cumsum(-1) == 1))

    with instead(Wino, "select", wrong):
        yield


@contextmanager
def ends_while_it_changes() -> Generator[None, None, None]:
    """A block ends with its last mask, though its tokens may still be edited."""
    with instead(RequestState, "_may_revise", False):
        yield


@contextmanager
def credit_that_stays() -> Generator[None, None, None]:
    """What a token has earned by credit decoding does not fade."""
    start = Credit.start

    def wrong(self: Credit, geometry: Geometry) -> UnmaskSession:
        return start(replace(self, beta=1.0), geometry)

    with instead(Credit, "start", wrong):
        yield


@contextmanager
def what_still_moves() -> Generator[None, None, None]:
    """KLASS commits what is sure, although its distribution still moves."""
    start = Klass.start

    def wrong(self: Klass, geometry: Geometry) -> UnmaskSession:
        return start(replace(self, drift=1e9), geometry)

    with instead(Klass, "start", wrong):
        yield


@contextmanager
def fills_what_is_not_sure() -> Generator[None, None, None]:
    """SlowFast commits together what its value does not allow."""
    start = SlowFast.start

    def wrong(self: SlowFast, geometry: Geometry) -> UnmaskSession:
        return start(replace(self, value=self.value / 2), geometry)

    with instead(SlowFast, "start", wrong):
        yield


@contextmanager
def anchors_everywhere() -> Generator[None, None, None]:
    """LocalLeap takes the lower threshold however far an anchor is."""
    select = LocalLeap.select

    def wrong(self: LocalLeap, scores: Scores, context: StepContext) -> Tensor:
        return select(replace(self, radius=scores.token_BG.shape[1]), scores, context)

    with instead(LocalLeap, "select", wrong):
        yield


@contextmanager
def density_of_masks() -> Generator[None, None, None]:
    """Masks are more certain the less of what is near them is decided."""

    def wrong(canvas: Canvas, sigma: float) -> Tensor:
        return 1 - density_BG(canvas, sigma)

    density_BG = certainty.density_BG
    with instead(certainty, "density_BG", wrong):
        yield


def empty_choice_of(each: int) -> Fault:
    """Of so many times that the rule is asked it commits nothing the last time."""

    @contextmanager
    def fault() -> Generator[None, None, None]:
        select, calls = Fixed.select, [0]

        def wrong(self: Fixed, scores: Scores, context: StepContext) -> Tensor:
            calls[0] += 1
            return select(self, scores, context) & bool(calls[0] % each)

        with instead(Fixed, "select", wrong):
            yield

    return fault


@contextmanager
def never_the_best_alone() -> Generator[None, None, None]:
    """A step in which nothing reaches the threshold commits nothing, until it is repeated."""

    def wrong(self: Threshold, scores: Scores, context: StepContext) -> Tensor:
        confidence_BG = scores.confidence_BG
        # The engine repeats an empty step under the same number.
        again = asked[-1:] == [(context.only.block.index, context.only.step)]
        asked.append((context.only.block.index, context.only.step))
        best_BG = (rank_BG(confidence_BG) == 0) & again
        return ((confidence_BG >= self.value) | best_BG) & ~confidence_BG.isneginf()

    asked = list[tuple[int, int]]()
    with instead(Threshold, "select", wrong):
        yield


@contextmanager
def stop_before_the_left_is_done() -> Generator[None, None, None]:
    """The run stops at the first EOS although masks are left of it."""

    def wrong(canvas: Canvas, eos_id: int, ends_from_B1: Tensor) -> None:
        masked_BG = canvas.masked_BG()
        ended_BG = (canvas.region(canvas.ids_BL) == eos_id) & ~masked_BG
        fill_BG = masked_BG & ended_BG.any(1, keepdim=True)
        canvas.commit(fill_BG, torch.full_like(canvas.region_BG, eos_id), Status.FILLED)

    with instead(ops, "_fill_ended", wrong):
        yield


@contextmanager
def eos_never_stops() -> Generator[None, None, None]:
    """The run goes on after EOS although it was asked to stop there."""

    def wrong(canvas: Canvas, eos_id: int, ends_from_B1: Tensor) -> None:
        """Do nothing."""

    with instead(ops, "_fill_ended", wrong):
        yield


@contextmanager
def block_left_early() -> Generator[None, None, None]:
    """A block is left after a quarter of its steps, masks or not."""

    def wrong(self: RequestState, host: HostCanvas) -> RequestStep | None:
        if self.step >= max(1, self.request.settings.whole_block // 4):
            self.block, self.step = self.block + 1, 0
        return following(self, host)

    following = RequestState.next_step
    with instead(RequestState, "next_step", wrong):
        yield


@contextmanager
def noise_at_temperature_zero() -> Generator[None, None, None]:
    """Gumbel noise is added although the temperature is 0."""
    score = ops.score

    def wrong(
        logits_NV: Tensor,
        mask_id: int,
        gumbel_NV: Tensor | None,
        *,
        entropy: bool,
        cuts: Sequence[ops.Cut] = (),
    ) -> ops.Scored:
        generator = torch.Generator().manual_seed(7)
        uniform_NV = torch.rand(logits_NV.shape, generator=generator, dtype=torch.float64)
        gumbel_NV = -4.0 * torch.log(-torch.log(uniform_NV))
        return score(logits_NV, mask_id, gumbel_NV, entropy=entropy, cuts=cuts)

    with instead(ops, "score", wrong):
        yield


@contextmanager
def one_draw_too_many() -> Generator[None, None, None]:
    """The generator is advanced once more before every draw."""
    noise = Scorer._noise

    def wrong(self: Scorer, rows: Rows) -> Tensor | None:
        noise(self, rows)
        return noise(self, rows)

    with instead(Scorer, "_noise", wrong):
        yield


@contextmanager
def draws_without_a_seed() -> Generator[None, None, None]:
    """Random numbers come from a generator that no seed controls."""
    noise = Scorer._noise

    def wrong(self: Scorer, rows: Rows) -> Tensor | None:
        for sampling in self._sampling.values():
            if sampling.generator is not None:
                sampling.generator.seed()
        return noise(self, rows)

    with instead(Scorer, "_noise", wrong):
        yield
