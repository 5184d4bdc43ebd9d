"""Faults of the token skip: what is compared, in which dtype, and who may leave.

Shape letters: B requests, N packed rows, D width, S compared layers, W reference slots.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from faults.engine.instead import Fault, instead
from skipstone.canvas import HostCanvas, StepContext
from skipstone.engine.forward.naming import Naming
from skipstone.engine.forward.runner import Pass, Runner
from skipstone.engine.observe import Taps
from skipstone.engine.score.scorer import ScoredRows, Scorer
from skipstone.engine.score.weighing import Weighing
from skipstone.ops.decide import reference as ops
from skipstone.rows import Rows
from skipstone.skip import scored
from skipstone.skip.cosine import CosineSession
from skipstone.skip.scored import RatioSession, StageStates

States = Sequence[Tensor]
"""[N, D] after each compared layer, S of them."""


@contextmanager
def _everything_expected() -> Generator[None, None, None]:
    """Every position has a reference, in the slot of its own number."""
    expect = CosineSession.expect

    def all_of_them(self: CosineSession, rows: Rows) -> None:
        length = self._store.held.slot_BL.shape[1]
        expect(self, Rows.spans([(b, 0, length) for b in rows.requests], rows.device))

    with instead(CosineSession, "expect", all_of_them):
        yield


@contextmanager
def misaligned_reference() -> Generator[None, None, None]:
    """The reference of the first cached step of a block is taken by row number."""
    judge = CosineSession._judge

    def wrong(self: CosineSession, states: States, rows: Rows, context: StepContext) -> Tensor:
        if context.only.step != 1:
            return judge(self, states, rows, context)
        kept_SBWD = self._store.held.states_SBWD
        wrong_SBWD = kept_SBWD.clone()
        wrong_SBWD[:, :, rows.position_N] = kept_SBWD[:, :, : rows.num_rows]
        self._store.held = self._store.held._replace(states_SBWD=wrong_SBWD)
        mask_N = judge(self, states, rows, context)
        kept_SBWD[:, :, rows.position_N] = wrong_SBWD[:, :, rows.position_N]
        self._store.held = self._store.held._replace(states_SBWD=kept_SBWD)
        return mask_N

    with _everything_expected(), instead(CosineSession, "_judge", wrong):
        yield


@contextmanager
def reference_of_the_neighbour() -> Generator[None, None, None]:
    """Every row is compared with the position left of it; its label says so."""
    judge = CosineSession._judge

    def wrong(self: CosineSession, states: States, rows: Rows, context: StepContext) -> Tensor:
        kept, now_SND = self._store.held, torch.stack(list(states))
        # The session would not compare what is labelled so: the label comes afterwards.
        self._store.held = kept._replace(
            states_SBWD=kept.states_SBWD.roll(1, 2), stamp_2BW=kept.stamp_2BW.clone()
        )
        mask_N = judge(self, states, rows, context)
        self._store.held = kept
        where = (slice(None), rows.request_N, rows.position_N)
        before_SND = kept.states_SBWD[where]
        kept.states_SBWD[where] = torch.where(mask_N[None, :, None], now_SND, before_SND)
        assert self.scores is not None
        self.scores = replace(self.scores, reference_position_N=rows.position_N - 1)
        return mask_N

    with _everything_expected(), instead(CosineSession, "_judge", wrong):
        yield


@contextmanager
def reference_written_backwards() -> Generator[None, None, None]:
    """The references are scattered in reverse order of rows, from the first cached step on."""
    judge = CosineSession._judge

    def wrong(self: CosineSession, states: States, rows: Rows, context: StepContext) -> Tensor:
        mask_N = judge(self, states, rows, context)
        states_SBWD = self._store.held.states_SBWD
        where = (slice(None), rows.request_N, rows.position_N)
        states_SBWD[where] = states_SBWD[where].flip(1)
        return mask_N

    with _everything_expected(), instead(CosineSession, "_judge", wrong):
        yield


def low_precision_similarity(kind: torch.dtype) -> Fault:
    """The similarity is computed in a short dtype although the setting says float32."""

    def wrong(now_SND: Tensor, before_SND: Tensor, dtype: torch.dtype) -> Tensor:
        cosine_SN = F.cosine_similarity(now_SND.to(kind), before_SND.to(kind), dim=-1)
        return cosine_SN.double().clamp(max=1.0)

    return lambda: instead(ops, "cosine", wrong)


@contextmanager
def other_summation() -> Generator[None, None, None]:
    """The cosine is summed in another order: as good, and not the same in the last bits."""

    def wrong(now_SND: Tensor, before_SND: Tensor, dtype: torch.dtype) -> Tensor:
        now_SND, before_SND = now_SND.to(dtype), before_SND.to(dtype)
        dot_SN = (now_SND * before_SND).flip(-1).cumsum(-1)[..., -1]
        lengths_SN = now_SND.norm(dim=-1) * before_SND.norm(dim=-1)
        return (dot_SN / lengths_SN).double().clamp(max=1.0)

    with instead(ops, "cosine", wrong):
        yield


@contextmanager
def similarity_divides_by_zero() -> Generator[None, None, None]:
    """The similarity of the first row is 0/0 in one layer, from the third step of a block on."""
    judge, cosine = CosineSession._judge, ops.cosine

    def late(self: CosineSession, states: States, rows: Rows, context: StepContext) -> Tensor:
        if context.only.step < 2:
            return judge(self, states, rows, context)
        with instead(ops, "cosine", wrong):
            return judge(self, states, rows, context)

    def wrong(now_SND: Tensor, before_SND: Tensor, dtype: torch.dtype) -> Tensor:
        similarity_SN = cosine(now_SND, before_SND, dtype)
        similarity_SN[3, 0] = torch.nan
        return similarity_SN

    with instead(CosineSession, "_judge", late):
        yield


@contextmanager
def committed_rows_skip() -> Generator[None, None, None]:
    """Rows just committed, and their neighbours, may skip."""
    judge = CosineSession._judge

    def wrong(self: CosineSession, states: States, rows: Rows, context: StepContext) -> Tensor:
        stated = self._bars
        self._bars = stated._replace(committed=False, neighbours=False)
        mask_N = judge(self, states, rows, context)
        self._bars = stated
        return mask_N

    with instead(CosineSession, "_judge", wrong):
        yield


@contextmanager
def skip_by_the_best_layer() -> Generator[None, None, None]:
    """A row leaves if one of its layers is above the threshold; the rule asks for the mean."""
    judge = CosineSession._judge

    def wrong(self: CosineSession, states: States, rows: Rows, context: StepContext) -> Tensor:
        judge(self, states, rows, context)
        assert self.scores is not None
        stable_N = self.scores.similarity_SN.amax(0) > self._bars.threshold
        self.scores = replace(self.scores, stable_N=stable_N)
        return ~stable_N | self.scores.forced_N

    with instead(CosineSession, "_judge", wrong):
        yield


def other_skip_threshold(threshold: float) -> Fault:
    """The threshold that rows are held against is not the one that was set."""
    judge = CosineSession._judge

    def wrong(self: CosineSession, states: States, rows: Rows, context: StepContext) -> Tensor:
        stated = self._bars
        self._bars = stated._replace(threshold=threshold)
        mask_N = judge(self, states, rows, context)
        self._bars = stated
        return mask_N

    return lambda: instead(CosineSession, "_judge", wrong)


# --- parts of the rows ----------------------------------------------------------------------------


@contextmanager
def older_confidence() -> Generator[None, None, None]:
    """The score counts the confidence of the step before the last."""
    keep, known = RatioSession.keep, list[Tensor | None]([None, None])

    def wrong(
        self: RatioSession, layer: int, x_ND: Tensor, rows: Rows, context: StepContext
    ) -> Tensor | None:
        now_BG = context.confidence_BG
        if layer == 1:
            known[:] = [known[1], None if now_BG is None else now_BG.clone()]
        older_BG = known[0] if context.only.step > 1 else now_BG
        return keep(self, layer, x_ND, rows, replace(context, confidence_BG=older_BG))

    with instead(RatioSession, "keep", wrong):
        yield


@contextmanager
def state_of_rows_that_leave() -> Generator[None, None, None]:
    """A row's change is counted from the step before, though it did not go on there."""
    replace_states = StageStates.replace

    def wrong(self: StageStates, x_ND: Tensor, rows: Rows, keep_N: Tensor | None = None) -> None:
        replace_states(self, x_ND, rows)

    with instead(StageStates, "replace", wrong):
        yield


@contextmanager
def states_never_renewed() -> Generator[None, None, None]:
    """A row's change is counted from the forward that computed everything."""
    replace_states = StageStates.replace

    def wrong(self: StageStates, x_ND: Tensor, rows: Rows, keep_N: Tensor | None = None) -> None:
        if keep_N is None:
            replace_states(self, x_ND, rows)

    with instead(StageStates, "replace", wrong):
        yield


@contextmanager
def states_by_number_of_row() -> Generator[None, None, None]:
    """A row is held against the state of the block's position that has its number among the rows.

    At the first depth all rows of the block are there, and that is its own.
    """
    keep, moved, begins = RatioSession.keep, StageStates.moved, [0]

    def remember(
        self: RatioSession, layer: int, x_ND: Tensor, rows: Rows, context: StepContext
    ) -> Tensor | None:
        if layer == 1:
            begins[0] = int(rows.position[0])
        return keep(self, layer, x_ND, rows, context)

    def wrong(self: StageStates, x_ND: Tensor, rows: Rows) -> Tensor:
        first = begins[0]
        return moved(self, x_ND, Rows.spans([(0, first, first + rows.num_rows)], rows.device))

    with instead(RatioSession, "keep", remember), instead(StageStates, "moved", wrong):
        yield


@contextmanager
def share_of_the_first_depth() -> Generator[None, None, None]:
    """At every depth as many rows go on as at the first."""
    chosen = RatioSession._chosen_N

    def wrong(
        self: RatioSession, stage: StageStates, x_ND: Tensor, rows: Rows, context: StepContext
    ) -> Tensor:
        own, stage.ratio = stage.ratio, max(each.ratio for each in self._stages.values())
        keep_N = chosen(self, stage, x_ND, rows, context)
        stage.ratio = own
        return keep_N

    with instead(RatioSession, "_chosen_N", wrong):
        yield


@contextmanager
def committed_rows_keep_their_confidence() -> Generator[None, None, None]:
    """The score of a row whose token is committed counts the confidence that it had before."""
    masks = scored._masks

    def wrong(context: StepContext) -> tuple[Tensor, Tensor]:
        confidence_BL, leftmost_BL = masks(context)
        if context.confidence_BG is not None:
            last_BG = context.confidence_BG.nan_to_num(neginf=0.0) * context.block_BG
            confidence_BL.scatter_(1, context.canvas.region_BG, last_BG)
        return confidence_BL, leftmost_BL

    with instead(scored, "_masks", wrong):
        yield


@contextmanager
def confidence_has_no_weight() -> Generator[None, None, None]:
    """``alpha`` is not handed on: a row's score is how far its state has moved."""
    chosen = RatioSession._chosen_N

    def wrong(
        self: RatioSession, stage: StageStates, x_ND: Tensor, rows: Rows, context: StepContext
    ) -> Tensor:
        own, self._rule = self._rule, self._rule._replace(alpha=0.0)
        keep_N = chosen(self, stage, x_ND, rows, context)
        self._rule = own
        return keep_N

    with instead(RatioSession, "_chosen_N", wrong):
        yield


@contextmanager
def skip_never_asked() -> Generator[None, None, None]:
    """The runner never lets a row skip."""
    forward = Runner.forward

    def wrong(
        self: Runner,
        rows: Rows,
        context: StepContext,
        *,
        fresh: Sequence[int],
        taps: Taps,
        naming: Naming | None = None,
    ) -> Pass:
        return forward(self, rows, context, fresh=rows.requests, taps=taps, naming=naming)

    with instead(Runner, "forward", wrong):
        yield


@contextmanager
def exit_state_is_scored() -> Generator[None, None, None]:
    """A row that skips is scored anew, from the state with which it left."""
    judge, score = CosineSession._judge, Scorer.score
    left = list[tuple[Rows, Tensor]]()

    def remember(self: CosineSession, states: States, rows: Rows, context: StepContext) -> Tensor:
        keep_N = judge(self, states, rows, context)
        index = np.flatnonzero(~keep_N.numpy())
        left[:] = [(rows.take(index), states[-1][index])] if index.size else []
        return keep_N

    def wrong(
        self: Scorer,
        done: Pass,
        context: StepContext,
        host: HostCanvas,
        *,
        weighing: Weighing | None,
        want_logits: bool,
    ) -> ScoredRows:
        if left:
            rows, x_ND = left.pop()
            early = replace(done, computed=rows, x_ND=x_ND)
            score(self, early, context, host, weighing=None, want_logits=False)
        return score(self, done, context, host, weighing=weighing, want_logits=want_logits)

    with instead(CosineSession, "_judge", remember), instead(Scorer, "score", wrong):
        yield
