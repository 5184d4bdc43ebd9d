"""The recorder: an observer that turns what it sees into plain data."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from skipstone.canvas import Status
from skipstone.engine.observe import StepView, Taps
from skipstone.engine.result import Result
from skipstone.engine.settings import Settings
from skipstone.models.load import Model
from skipstone.record import Candidate, Header, Judgement, Outcome, RunRecord, StepRecord
from skipstone.rows import Rows
from skipstone.skip import SkipScores


class Recorder:
    """Keeps every step of a run in memory; ``records`` has one record for each prompt.

    Example:
        ``recorder = Recorder(); engine.generate(prompt, observer=recorder); recorder.records[0]``
    """

    def __init__(self, *, logits: bool = False) -> None:
        """Record decisions and similarities; ``logits`` adds those of every scored row."""
        self.taps = Taps(logits=logits)
        self.records = list[RunRecord]()
        self._headers = list[Header]()
        self._steps = list[list[StepRecord]]()

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        """Note what is run; forgets the run before."""
        self.records = []
        self._headers = [_header(model, settings, prompt) for prompt in prompts]
        self._steps = [[] for _ in prompts]

    def on_step(self, view: StepView) -> None:
        """Copy one step to the host, for each request that took part."""
        for request in view.rows.requests:
            self._steps[request].append(_step(view, request, self._headers[request]))

    def on_end(self, results: Sequence[Result]) -> None:
        """Close the records."""
        self.records = [
            RunRecord(header, tuple(steps), _outcome(result))
            for header, steps, result in zip(self._headers, self._steps, results, strict=True)
        ]


def _header(model: Model, settings: Settings, prompt: Sequence[int]) -> Header:
    from skipstone import __version__

    config = model.config
    return Header(
        model=model.name,
        num_layers=config.num_layers,
        width=config.width,
        vocab_size=config.vocab_size,
        mask_id=config.mask_id,
        eos_id=config.eos_id,
        dtype=str(model.network.dtype).removeprefix("torch."),
        device=str(model.network.device),
        settings=settings.as_text(),
        prompt_ids=tuple(prompt),
        versions={
            "skipstone": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )


def _outcome(result: Result) -> Outcome:
    return Outcome(
        text=result.text,
        tokens=result.tokens,
        masks_left=result.masks_left,
        num_forwards=result.stats.num_forwards,
        skip_share=result.stats.skip_share,
        seconds=result.stats.seconds,
    )


def _step(view: StepView, request: int, header: Header) -> StepRecord:
    moment = view.moment
    start = moment.canvas.prompt_lengths[request]
    length = moment.canvas.length_of(request)
    judgements = _judgements(view.skip, request)
    num_rows = dict(zip(view.rows.requests, view.rows.counts, strict=True))[request]
    logits, logit_positions = _logits(view, request)
    return StepRecord(
        forward=moment.forward,
        block=moment.block.index,
        step=moment.step,
        recovery=view.recovery,
        refresh=view.rows.refresh,
        block_start=start + moment.block.start,
        block_stop=start + moment.block.stop,
        ids_before=tuple(view.before.ids_BG[request].tolist()),
        ids_after=tuple(view.after.ids_BG[request].tolist()),
        status_before=tuple(view.before.status_BG[request].tolist()),
        status_after=tuple(view.after.status_BG[request].tolist()),
        rows=_positions(view.rows, request),
        finished=() if view.finished is None else _positions(view.finished, request),
        entered_age=_ages(view.entered_at_BL[request, :length], moment.forward),
        finished_age=_ages(view.finished_at_BL[request, :length], moment.forward),
        candidates=_candidates(view, request),
        judgements=judgements,
        state_shape=(num_rows, header.width),
        reference_shape=(len(judgements), header.width) if judgements else None,
        state_dtype=header.dtype,
        logits=logits,
        logit_positions=logit_positions,
    )


def _positions(rows: Rows, request: int) -> tuple[int, ...]:
    return tuple(rows.position[rows.request == request].tolist())


def _ages(at_L: Tensor, forward: int) -> tuple[int, ...]:
    return tuple(torch.where(at_L < 0, -1, forward - at_L).tolist())


def _candidates(view: StepView, request: int) -> tuple[Candidate, ...]:
    """The masks that have scores in this block or left of it, in order of position."""
    board, moment = view.board, view.moment
    scored_at = board.scored_at_BG[request].cpu().numpy()
    masked = view.before.status_BG[request] == Status.MASK
    masked[moment.block.stop :] = False
    offsets = np.flatnonzero(masked & (scored_at >= 0))
    token, runner_up, rank, eligible, committed = (
        values[request].tolist()
        for values in (
            board.token_BG,
            board.runner_up_BG,
            view.rank_BG,
            view.eligible_BG,
            view.commit_BG,
        )
    )
    confidence = board.confidence_BG[request].tolist()
    second = board.runner_up_confidence_BG[request].tolist()
    bound = None if view.bound_BG is None else view.bound_BG[request].tolist()
    return tuple(
        Candidate(
            position=moment.canvas.prompt_lengths[request] + o,
            token=token[o],
            confidence=confidence[o],
            runner_up=runner_up[o],
            margin=confidence[o] - second[o],
            rank=rank[o],
            bound=None if bound is None else bound[o],
            age=moment.forward - int(scored_at[o]),
            eligible=eligible[o],
            committed=committed[o],
        )
        for o in offsets.tolist()
    )


def _judgements(scores: SkipScores | None, request: int) -> tuple[Judgement, ...]:
    if scores is None:
        return ()
    mine = np.flatnonzero(scores.rows.request == request).tolist()
    similarity_NS = scores.similarity_SN.T.tolist()
    smallest, mean = scores.smallest_N.tolist(), scores.mean_N.tolist()
    stable, forced = scores.stable_N.tolist(), scores.forced_N.tolist()
    return tuple(
        Judgement(
            position=int(scores.rows.position[n]),
            smallest=smallest[n],
            mean=mean[n],
            similarities=tuple(similarity_NS[n]),
            stable=stable[n],
            forced=forced[n],
        )
        for n in mine
    )


def _logits(view: StepView, request: int) -> tuple[np.ndarray | None, tuple[int, ...]]:
    if view.logits_NV is None or view.scored is None:
        return None, ()
    mine = view.scored.request == request
    logits_NV = view.logits_NV.float().cpu().numpy()
    return logits_NV[mine], _positions(view.scored, request)
