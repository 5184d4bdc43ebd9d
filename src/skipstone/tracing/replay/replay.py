"""Leads a run along a recorded one: the same canvases, and what the engine makes of them.

A led step starts from the canvas that was recorded; the K/V store, the references of the skip and
the scores live on from step to step as in any run. Single choices (rows, skipped rows) may be taken
from the record too, and single values may be replaced.

Shape letters: B requests, L canvas length, G generation length, N packed rows, D width,
V vocabulary, H query heads, U key/value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from skipstone.blocks import Block
from skipstone.cache import CachePolicy
from skipstone.canvas import Geometry, HostCanvas, StepContext
from skipstone.diagnosis.experiment import STRAIGHT, Choice, Hidden, Patch, Turn, Variation
from skipstone.engine import Engine, Settings
from skipstone.engine.ages import Ages
from skipstone.engine.batch import Batch
from skipstone.engine.observe import Observer
from skipstone.errors import TraceError
from skipstone.models.load import Model
from skipstone.record import RunRecord, StepRecord
from skipstone.rows import Rows
from skipstone.skip import SkipPolicy, SkipScores, SkipSession
from skipstone.tracing.experiments.interventions import Intervention, PatchedNetwork, PatchedScorer

# A companion that is longer than the sample changes its padding and every kernel's shape.
_COMPANION_EXTRA = 7


@dataclass(frozen=True)
class ReplayPlan:
    """How a run is led."""

    forwards: tuple[int, int]
    """First and last recorded forward that matter."""
    led: frozenset[Choice] = frozenset()
    """Choices that are taken from the record."""
    patches: tuple[Patch, ...] = ()
    variation: Variation = ""
    hidden: Hidden = ""
    seen: tuple[int, int] | None = None
    """The first key that rows see, and one past the last; None for all."""
    turn: Turn = STRAIGHT
    unskip: tuple[int, ...] = ()
    others: tuple[tuple[int, ...], ...] = ()
    """Prompts that were decoded beside this one."""
    free: int = -1
    """A forward in which nothing is led: the settings choose."""


def replay(
    model: Model, settings: Settings, record: RunRecord, lead: ReplayPlan, observer: Observer
) -> None:
    """Run the recorded steps again, each from its recorded canvas, and show them to an observer.

    Raises:
        ConfigError: the settings do not fit the model.
        TraceError: the record holds ids that the model does not have.
    """
    with _varied(lead.variation):
        replayer = Replayer(model, settings, record, lead, observer)
        # A run that broke is followed to see how, and a NaN may be what is put in.
        replayer.batch.stops_at_nan = False
        for step in replayer.steps():
            replayer.take(step)


class Replayer:
    """A run that is led step by step; ``batch`` is the engine's own."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        record: RunRecord,
        lead: ReplayPlan,
        observer: Observer | None,
    ) -> None:
        """Start a run of the recorded prompt with led policies and a network that can be patched.

        Raises:
            ConfigError: the settings do not fit the model.
        """
        self.record, self._lead = record, lead
        self._at = _At(record, lead.free)
        gen_length = record.header.gen_length
        settings = settings.replace(
            cache=_LedCache(settings.cache, self._at, "rows" in lead.led),
            skip=_LedSkip(settings.skip, self._at, "skip" in lead.led, lead.unskip),
            gen_length=gen_length,
            block_length=min(settings.block_length, gen_length),
        )
        done = Intervention(
            lead.patches, lead.turn, lead.forwards[0], nudge=lead.variation == "last_bit"
        )
        self._network = PatchedNetwork(model.network, lambda: self._at.step.forward, done)
        self._model = replace(model, network=self._network)
        self._prompts = _prompts(record, lead)
        self.settings = settings
        self.stepper = Engine(self._model, settings).start(self._prompts).stepper
        if lead.hidden == "padding seen":
            _reserve_padding(self.batch)
        self.batch.ages = Ages.start(self.batch.canvas)
        self.batch.scorer = PatchedScorer(self.batch.scorer, lead.patches)
        if observer is not None:
            self.watch(observer)

    @property
    def batch(self) -> Batch:
        """The request that is led, and those beside it."""
        return self.stepper.batch

    def watch(self, observer: Observer) -> None:
        """Show the steps from here on to an observer."""
        self.stepper.observer, self.stepper.overlaps = observer, False
        observer.on_start(self._model, self.settings, self._prompts)

    def steps(self) -> Sequence[StepRecord]:
        """The recorded steps to take, from where the K/V store can be built up."""
        first, last = self._lead.forwards
        first = _origin(self.record, first, self.settings)
        return [s for s in self.record.steps if first <= s.forward <= last]

    @torch.inference_mode()
    def take(self, step: StepRecord) -> None:
        """Take one step from its recorded canvas.

        Raises:
            TraceError: it holds ids that the model does not have.
        """
        self._at.step = step
        _check_ids(step, self._model.network.config.vocab_size)
        put(self.batch, step, self._at.committed_before)
        start = step.prompt_length
        block = Block(step.block, step.block_start - start, step.block_stop - start)
        if step.forward >= self._lead.forwards[0]:
            self._at.padding_seen = self._lead.hidden == "padding seen"
            _hide(self.batch, block, self._lead.hidden, self._lead.seen)
        context = self.batch.together(block, step.step, step.forward)
        self.stepper.step(context, recovery=step.recovery)


def _reserve_padding(batch: Batch) -> None:
    """Give every request cells for the whole canvas, so that there is padding to be seen."""
    store, canvas = batch.runner.store, batch.canvas
    for state in batch.states:
        store.release(state.slot)
    for state in batch.states:
        base = store.admit(state.slot, canvas.ids_BL.shape[1])
        assert base is not None, "a store for a replay grows"
        canvas.bases[state.slot] = base


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
    if hidden in ("", "padding seen") and seen is None:
        return
    visible_BL = torch.ones_like(batch.canvas.ids_BL, dtype=torch.bool)
    for b, start in enumerate(batch.canvas.prompt_lengths):
        if hidden == "prompt":
            visible_BL[b, :start] = False
        if hidden == "left":
            visible_BL[b, start : start + block.start] = False
        if hidden == "outside":
            visible_BL[b, : start + block.start] = False
        if hidden == "first":
            visible_BL[b, 0] = False
        if hidden == "last":
            visible_BL[b, batch.canvas.length_of(b) - 1] = False
        if hidden in ("suffix", "outside"):
            visible_BL[b, start + block.stop :] = False
        if seen is not None:
            visible_BL[b, : seen[0]] = False
            visible_BL[b, seen[1] :] = False
    batch.runner.store.visible_BL = visible_BL


class _At:
    """Where a led run is: the recorded step that is being taken."""

    def __init__(self, record: RunRecord, free: int) -> None:
        self.step = record.steps[0]
        self.padding_seen = False
        self._free = free
        self._before = dict(zip((s.forward for s in record.steps[1:]), record.steps, strict=False))
        self._numbered = {(s.block, s.step): s for s in record.steps if not s.recovery}

    @property
    def free(self) -> bool:
        """Whether this step is not led."""
        return self.step.forward == self._free

    def led(self, context: StepContext) -> StepRecord | None:
        """The recorded step that leads a context: this one, or one that the run looks ahead to.

        None if nothing leads it.
        """
        step, asked = self.step, context.requests[0].step
        if asked != step.step:
            step = self._numbered.get((step.block, asked))
        return None if step is None or step.forward == self._free else step

    @property
    def committed_before(self) -> tuple[int, ...]:
        """What the recorded step before committed: its canvas against this one."""
        before = self._before.get(self.step.forward)
        if before is None:
            return ()
        new = (before.status_before == 2) & (self.step.status_before != 2)
        return tuple((np.flatnonzero(new) + self.step.prompt_length).tolist())


@dataclass(frozen=True, eq=False)
class _LedCache:
    """Rows as recorded, or as a policy chooses."""

    inner: CachePolicy
    at: _At
    led: bool

    def rows(self, context: StepContext) -> Rows:
        """The rows of every request; the record speaks for all, shifted to their prompts."""
        rows = self._rows(context)
        if not self.at.padding_seen:
            return rows
        return replace(rows, horizon=np.full(rows.num_rows, context.canvas.ids_BL.shape[1]))

    def _rows(self, context: StepContext) -> Rows:
        step, starts = self.at.led(context), context.canvas.prompt_lengths
        if not self.led or step is None:
            return self.inner.rows(context)
        positions = np.sort(step.rows).astype(np.int64)
        shifted = [_shifted(positions, step, starts[b]) for b in context.active]
        lengths = [context.canvas.length_of(b) for b in context.active]
        seen = [
            at.reach.horizon(position, length)
            for at, position, length in zip(context.requests, shifted, lengths, strict=True)
        ]
        return Rows(
            requests=context.active,
            counts=(positions.size,) * len(context.active),
            request=np.repeat(np.array(context.active), positions.size),
            position=np.concatenate(shifted),
            horizon=np.concatenate(seen),
            base=np.repeat([context.canvas.bases[b] for b in context.active], positions.size),
            device=context.canvas.device,
            refreshed=context.active if step.refresh else (),
        )


def _shifted(positions: np.ndarray, step: StepRecord, start: int) -> np.ndarray:
    """Positions of a companion: the last prompt positions stand for the sample's own."""
    return positions + (start - step.prompt_length)


@dataclass(frozen=True, eq=False)
class _LedSkip(SkipPolicy):
    """Skipped rows as recorded, or as a policy chooses; the policy judges in both cases."""

    inner: SkipPolicy
    at: _At
    led: bool
    unskip: tuple[int, ...]

    def start(self, geometry: Geometry) -> SkipSession | None:
        """A session around the policy's own."""
        session = self.inner.start(geometry)
        if self.led or (self.unskip and session is not None):
            return _LedSession(session, self.at, self.led, self.unskip)
        return session


class _LedSession:
    """Asks the policy, so that its references and scores are kept, and answers from the record."""

    def __init__(
        self, inner: SkipSession | None, at: _At, led: bool, unskip: tuple[int, ...]
    ) -> None:
        self._inner, self._at = inner, at
        self._led, self._unskip = led, unskip

    @property
    def scores(self) -> SkipScores | None:
        """What the policy judged."""
        return None if self._inner is None else self._inner.scores

    @property
    def decides_after(self) -> tuple[int, ...]:
        """Any layer: what is led follows the record."""
        return ()

    def expect(self, rows: Rows) -> None:
        """Hand on to the policy."""
        if self._inner is not None:
            self._inner.expect(rows)

    def keep(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> Tensor | None:
        """Rows that the record says went on past this layer."""
        free_N = None
        if self._inner is not None:
            free_N = self._inner.keep(layer, x_ND, rows, context)
        step = self._at.step
        if step.forward in self._unskip:
            return None
        if not self._led or self._at.free:
            return free_N
        if not step.skip_layer or layer != step.skip_layer - 1:
            return None
        starts = np.array(context.canvas.prompt_lengths)[rows.request]
        kept = np.isin(rows.position - starts + step.prompt_length, step.finished)
        return torch.from_numpy(kept).to(x_ND.device)

    def learn(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> None:
        """Hand on to the policy."""
        if self._inner is not None:
            self._inner.learn(layer, x_ND, rows, context)

    def forget(self, request: int) -> None:
        """Hand on to the policy."""
        if self._inner is not None:
            self._inner.forget(request)


def _origin(record: RunRecord, first: int, settings: Settings) -> int:
    """The forward from which a replay must start so that nothing older is needed.

    A refresh at a block's start renews K/V, references and scores of all that may still be read;
    random numbers must be drawn from the beginning.
    """
    if settings.temperature > 0 or settings.unmask.uses_seed:
        return record.steps[0].forward
    starts = [
        s.forward
        for s in record.steps
        if s.forward <= first and s.step == 0 and s.rows.size == record.length
    ]
    return max(starts, default=record.steps[0].forward)


def _prompts(record: RunRecord, lead: ReplayPlan) -> list[list[int]]:
    prompt = list(record.header.prompt_ids)
    if lead.hidden == "padding seen":
        return [prompt, *map(list, lead.others)]
    if lead.variation == "batch":
        return [prompt, prompt]
    if lead.variation == "padding":
        return [prompt, prompt[:1] * _COMPANION_EXTRA + prompt]
    return [prompt]


@contextmanager
def _varied(variation: Variation) -> Generator[None, None, None]:
    """Change what should not matter about this process."""
    threads = torch.get_num_threads()
    try:
        if variation == "threads":
            torch.set_num_threads(2 if threads == 1 else 1)
        if variation == "backend":
            with sdpa_kernel(SDPBackend.MATH):
                yield
        else:
            yield
    finally:
        torch.set_num_threads(threads)
