"""Replays recorded steps: each from its recorded canvas, by the engine's own step.

Shape letters: B requests, L canvas length, G generation length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch

from skipstone.blocks import Block
from skipstone.canvas import HostCanvas
from skipstone.diagnosis.experiment import Hidden, Horizon
from skipstone.engine import Engine, Settings
from skipstone.engine.ages import Ages
from skipstone.engine.batch import Batch
from skipstone.engine.observe import Observer, Taps
from skipstone.errors import TraceError
from skipstone.models.load import Model
from skipstone.record import RunRecord, StepRecord
from skipstone.tracing.replay.forced import ForcedCache, ForcedSkip, RecordedSteps
from skipstone.tracing.replay.interventions import Replacement
from skipstone.tracing.replay.plan import ReplayPlan, varied


def replay(
    model: Model, settings: Settings, record: RunRecord, plan: ReplayPlan, observer: Observer
) -> None:
    """Take the recorded steps again, and show them to an observer.

    Raises:
        ConfigError: the settings do not fit the model.
        TraceError: the record holds ids that the model does not have.
    """
    with varied(plan.variation):
        replayer = Replayer(model, settings, record, plan, observer)
        # A run that broke is followed to see how, and a NaN may be what is put in.
        replayer.batch.stops_at_nan = False
        for step in plan.steps(record, settings):
            replayer.take(step)


class Replayer:
    """A run that is taken step by step along a record; ``batch`` is the engine's own."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        record: RunRecord,
        plan: ReplayPlan,
        observer: Observer | None,
    ) -> None:
        """Start a run of the recorded prompt, with policies that follow the record.

        Raises:
            ConfigError: the settings do not fit the model.
        """
        self._model, self._plan = model, plan
        self._recorded = RecordedSteps(record, plan.free)
        self._replacement = Replacement(
            model.network.config,
            plan.patches,
            plan.turn,
            since=plan.forwards[0],
            nudge=plan.variation == "last_bit",
        )
        gen_length = record.header.gen_length
        own = settings.replace(
            cache=ForcedCache(settings.cache, self._recorded, "rows" in plan.led),
            skip=ForcedSkip(settings.skip, self._recorded, "skip" in plan.led, plan.unskip),
            gen_length=gen_length,
        )
        self._prompts = plan.prompts(record)
        engine = Engine(model, own)
        self.settings, self.stepper = engine.settings, engine.start(self._prompts).stepper
        if plan.padding_seen:
            _reserve_padding(self.batch)
        self.batch.ages = Ages.start(self.batch.canvas)
        self.batch.intervene(self._replacement)
        self._compute_reused(record.steps[0])
        if observer is not None:
            self.watch(observer)

    @property
    def batch(self) -> Batch:
        """The request that is replayed, and those beside it."""
        return self.stepper.batch

    @torch.inference_mode()
    def _compute_reused(self, first: StepRecord) -> None:
        """Compute what the recorded request took over from an earlier one, which is not here.

        Where attention is causal over blocks, a first step that begins behind position 0 has left
        out what was there already. Code that is not ours is not believed that.
        """
        batch, begins = self.batch, int(first.rows.min(initial=first.prompt_length))
        causal = batch.config.reach.block_size is not None
        if not causal or first.forward or not begins or first.positions_from != "engine":
            return
        for state in batch.states:
            # That of a companion ends as far before its prompt does.
            state.reused = max(0, begins + len(state.request.prompt) - first.prompt_length)
        context = batch.together(_block_of(first), first.step, first.forward)
        reused = {state.slot: np.arange(state.reused) for state in batch.states}
        rows = context.rows_at(reused)
        if rows.num_rows:
            batch.forward(rows, context, fresh=context.active, taps=Taps())

    def watch(self, observer: Observer) -> None:
        """Show the steps from here on to an observer."""
        self.stepper.observer, self.stepper.overlaps = observer, False
        observer.on_start(self._model, self.settings, self._prompts)

    @torch.inference_mode()
    def take(self, step: StepRecord) -> None:
        """Take one step from its recorded canvas.

        Raises:
            TraceError: it holds ids that the model does not have.
        """
        _check_ids(step, self._model.network.config.vocab_size)
        self._recorded.step, self._replacement.forward = step, step.forward
        put(self.batch, step, self._recorded.committed_before)
        block = _block_of(step)
        if step.forward >= self._plan.forwards[0]:
            self._recorded.horizon = self._plan.horizon
            _hide(self.batch, block, self._plan.hidden, self._plan.seen)
        context = self.batch.together(block, step.step, step.forward, self._recorded.post_step)
        self.stepper.step(context, recovery=step.recovery)


def _block_of(step: StepRecord) -> Block:
    start = step.prompt_length
    return Block(step.block, step.block_start - start, step.block_stop - start)


def _reserve_padding(batch: Batch) -> None:
    """Give every request cells for the whole canvas, so that there is padding to be seen."""
    store, length = batch.runner.store, batch.canvas.ids_BL.shape[1]
    for state in batch.states:
        store.release(state.base)
    for state in batch.states:
        place = store.admit(length)
        assert place is not None, "a store for a replay grows"
        state.base = place.base


def _check_ids(step: StepRecord, vocab_size: int) -> None:
    """Refuse a canvas that the model cannot read: a trace may say anything."""
    largest = int(step.ids_before.max(initial=0))
    if largest >= vocab_size:
        raise TraceError(
            f"the step at forward {step.forward} holds the token id {largest}, but the model has "
            f"{vocab_size} ids; give the model that the trace was made with"
        )


def put(batch: Batch, step: StepRecord, committed: Sequence[int]) -> None:
    """Put the canvas of every request into the state before a recorded step."""
    slots, device = batch.canvas.batch, batch.canvas.device
    host = HostCanvas(
        ids_BG=np.repeat(step.ids_before[None].astype(np.int64), slots, axis=0),
        status_BG=np.repeat(step.status_before[None].astype(np.int64), slots, axis=0),
    )
    committed_BL = torch.zeros_like(batch.committed_BL)
    for b, length in enumerate(batch.canvas.prompt_lengths):
        shift = length - step.prompt_length
        committed_BL[b, torch.tensor([p + shift for p in committed], dtype=torch.int64)] = True
    batch.put(host, committed_BL.to(device))


def _hide(batch: Batch, block: Block, hidden: Hidden, seen: tuple[int, int] | None) -> None:
    """Change what rows may see, for this step."""
    if (not hidden or hidden in get_args(Horizon)) and seen is None:
        return
    visible_BL = torch.ones_like(batch.canvas.ids_BL, dtype=torch.bool)
    for b, start in enumerate(batch.canvas.prompt_lengths):
        if hidden == "prompt":
            visible_BL[b, :start] = False
        if hidden == "prompt in its block" and batch.config.reach.block_size is not None:
            visible_BL[b, start - start % batch.config.reach.block_size : start] = False
        if hidden == "left":
            visible_BL[b, start : start + block.start] = False
        if hidden == "outside":
            visible_BL[b, : start + block.start] = False
        if hidden == "first":
            visible_BL[b, 0] = False
        if hidden == "last":
            length, suffix = batch.canvas.length_of(b), batch.settings(b).suffix
            end = length if suffix is None else min(length, start + block.stop + suffix)
            visible_BL[b, end - 1] = False
        if hidden in ("suffix", "outside"):
            visible_BL[b, start + block.stop :] = False
        if seen is not None:
            visible_BL[b, : seen[0]] = False
            visible_BL[b, seen[1] :] = False
    batch.runner.store.visible_BL = visible_BL
