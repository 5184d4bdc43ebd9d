"""Carries out the experiments that rules ask for: runs the engine again with one thing changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace

import numpy as np
import torch

from skipstone.cache import NoCache
from skipstone.diagnosis.experiment import (
    VARIATIONS,
    ExperimentRequest,
    Follow,
    Rerun,
    Rescore,
    SideName,
    Spent,
    Unavailable,
    Unobserved,
    Variation,
)
from skipstone.diff import Floor, floor_from
from skipstone.engine import Engine, Settings, parse_settings
from skipstone.engine.observe import Observer, Observers, StepView, Taps
from skipstone.engine.result import Result
from skipstone.errors import SkipstoneError
from skipstone.models.load import Model
from skipstone.record import Candidates, MemoryTrace, RunRecord, StepRecord, Trace
from skipstone.record.weights import same_weights
from skipstone.sentence import Code, Sentence
from skipstone.skip import NoSkip
from skipstone.tracing.experiments.known import Answer, KnownAnswers
from skipstone.tracing.experiments.names import describe
from skipstone.tracing.experiments.unrotated import Unrotated, rotated
from skipstone.tracing.record.recorder import Recorder, outcome
from skipstone.tracing.replay.again import decode_again
from skipstone.tracing.replay.plan import ReplayPlan
from skipstone.tracing.replay.recorded_model import recorded_model
from skipstone.tracing.replay.replay import replay

BUDGET = 500
"""Experiments of one diagnosis. Most need fewer than 50; bisecting the rows of a cache, more."""


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two runs under comparison, and the means to run it again."""

    trace: Trace
    sample: int = 0
    engine: Engine | None = None
    """Runs this side's own code; None if only its trace is here."""
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    """Entered around every run of this side's own code."""
    repeats: tuple[Trace, ...] = ()
    """The same sample alone, from runs of code that is not ours; they take the place of reruns."""
    known: KnownAnswers | None = None
    """Answers about this side A alone, of diagnoses with the same reference; None: all are made."""

    @property
    def record(self) -> RunRecord:
        """The sample that is compared."""
        return self.trace.records[self.sample]


@dataclass(frozen=True)
class FinishedExperiment:
    """An experiment that was made."""

    experiment: ExperimentRequest
    seconds: float
    outcome: str
    """One line."""


class ExperimentRunner:
    """Answers experiments with traces; each question is answered once.

    What side B *should* do is computed with the model of side A, the reference, so that a fault in
    B's model or code shows against it.
    """

    def __init__(
        self,
        a: Side,
        b: Side,
        reference: Model | None,
        *,
        time_limit: float = float("inf"),
        budget: int = BUDGET,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """Take both sides.

        Args:
            a: the baseline.
            b: the run to explain.
            reference: the model that leads along recorded canvases; None if it is not here.
            time_limit: seconds; no experiment is started after they are spent.
            budget: how many experiments may be made.
            progress: told what is being tried.
        """
        self.sides: dict[SideName, Side] = {"a": a, "b": b}
        self.reference = reference
        self.done = list[FinishedExperiment]()
        self._deadline, self._budget = time.monotonic() + time_limit, budget
        self._progress = progress
        self._answers = dict[ExperimentRequest, Trace]()
        self._better: Model | None = None
        self._cast = dict[str, Model]()

    def ask(self, experiment: ExperimentRequest) -> Trace:
        """The run that the experiment asks for.

        Raises:
            Unavailable: it cannot be made; the message says why.
        """
        if experiment in self._answers:
            return self._answers[experiment]
        if time.monotonic() > self._deadline:
            raise Spent(Sentence("the time limit is reached"))
        if len(self.done) >= self._budget:
            raise Spent(Sentence("all {budget} experiments are spent", budget=self._budget))
        known = self.sides["a"].known
        answer = known.get(experiment) if known is not None else None
        if answer is None:
            answer = self._made(experiment)
            if known is not None:
                known.keep(experiment, answer)
        self._answers[experiment] = answer.trace
        steps = len(answer.trace.records[0].steps)
        self.done.append(FinishedExperiment(experiment, answer.seconds, f"{steps} steps"))
        return answer.trace

    def _made(self, experiment: ExperimentRequest) -> Answer:
        if self._progress is not None:
            self._progress(describe(experiment))
        started = time.monotonic()
        try:
            trace = self._run(experiment)
        except Unavailable:
            raise
        except SkipstoneError as error:
            why = Sentence("a run was refused: {error}", error=str(error))
            raise Unavailable(why) from error
        return Answer(trace, time.monotonic() - started)

    def _run(self, experiment: ExperimentRequest) -> Trace:
        if isinstance(experiment, Rerun):
            return self._rerun(experiment)
        if isinstance(experiment, Unobserved):
            return self._unobserved(experiment)
        if self.reference is None:
            raise Unavailable(Sentence("the model is not here"))
        if isinstance(experiment, Follow):
            return self._follow(self.reference, experiment)
        return self._rescore(self.reference, experiment)

    def _rerun(self, experiment: Rerun) -> Trace:
        side = self.sides[experiment.side]
        again = experiment.attempt - 1
        if not experiment.changes and 0 <= again < len(side.repeats):
            return side.repeats[again]
        if side.engine is None:
            raise Unavailable(_only_its_trace(experiment.side))
        _check_own(experiment.side, side)
        settings = parse_settings(dict(experiment.changes), side.engine.settings)
        recorder, observer = _recording(side.record, experiment.tensors)
        if experiment.until is not None:
            observer = Observers((observer, _Until(experiment.until)))
        with side.around(), suppress(_EnoughError):
            engine = Engine(side.engine.model, settings)
            decode_again(engine, side.record, observer)
        return recorder.trace

    def _unobserved(self, experiment: Unobserved) -> Trace:
        side = self.sides[experiment.side]
        if side.engine is None:
            raise Unavailable(_only_its_trace(experiment.side))
        _check_own(experiment.side, side)
        with side.around():
            result = decode_again(side.engine, side.record)
        trace = MemoryTrace()
        trace.begin([side.record.header], "decisions")
        trace.end([outcome(result)])
        return trace

    def _follow(self, model: Model, experiment: Follow) -> Trace:
        record = self.sides[experiment.along].record
        settings = settings_of(self.sides[experiment.settings].record, dict(experiment.changes))
        recorder, observer = _recording(record, experiment.forwards if experiment.tensors else None)
        trace = self.sides[experiment.along].trace
        unrotated = experiment.keys == "unrotated"
        config, patches = model.network.config, experiment.patches
        lead = ReplayPlan(
            experiment.forwards,
            experiment.led,
            tuple(rotated(p, config) for p in patches) if unrotated else patches,
            experiment.variation,
            experiment.hidden,
            experiment.seen,
            experiment.turn,
            experiment.unskip,
            tuple(r.header.prompt_ids for r in trace.records if r is not record),
        )
        own = self._in_dtype(model, record.header.dtype)
        replay(self._lifted(own) if experiment.lifted else own, settings, record, lead, observer)
        return Unrotated(recorder.trace, config) if unrotated else recorder.trace

    def _lifted(self, model: Model) -> Model:
        """The same weights in a better dtype; made once."""
        if self._better is None:
            self._better = lifted(model)
        return self._better

    def _in_dtype(self, model: Model, dtype: str) -> Model:
        """The same weights in the dtype of the run that is followed; made once for each."""
        own = str(model.network.dtype).removeprefix("torch.")
        if dtype == own or not hasattr(torch, dtype):
            return model
        if dtype not in self._cast:
            self._cast[dtype] = _copied(model, getattr(torch, dtype))
        return self._cast[dtype]

    def _rescore(self, model: Model, experiment: Rescore) -> Trace:
        record = self.sides[experiment.side].record
        step = _made_up(record, experiment)
        settings = settings_of(record, {}).replace(cache=NoCache(), skip=NoSkip())
        recorder = Recorder()
        lead = ReplayPlan((0, 0))
        replay(model, settings, replace(record, steps=(step,)), lead, recorder)
        return recorder.trace


class _EnoughError(Exception):
    """Everything that matters was seen."""


@dataclass(frozen=True)
class _Until:
    """An observer that ends a run after one of its forwards."""

    forward: int

    @property
    def taps(self) -> Taps:
        """Nothing."""
        return Taps()

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        """Nothing to note."""

    def on_step(self, view: StepView) -> None:
        """Leave if this was the last forward that matters."""
        if view.context.of(0).forward >= self.forward:
            raise _EnoughError

    def on_end(self, results: Sequence[Result]) -> None:
        """The run was shorter."""


def noise_floor(
    trace: Trace, sample: int = 0, *, model: Model | None = None, around: int | None = None
) -> Floor:
    """Measure how much a run moves when only things change that should not matter.

    Args:
        trace: the run.
        sample: which of its samples.
        model: the model that made it; the one that the trace names if None, if it is the embedded
            one or lies in the local hub cache.
        around: a forward; only its neighbourhood is measured. The first steps if None.

    Raises:
        SkipstoneError: the model cannot be loaded or does not fit.
    """
    record = trace.records[sample]
    model = recorded_model(record.header) if model is None else model
    last = record.steps[-1].forward
    middle = min(3, last) if around is None else around
    forwards = (max(0, middle - 1), min(middle + 1, last))
    side = Side(trace, sample)
    runner = ExperimentRunner(side, side, model)
    plain = runner.ask(Follow("a", "a", forwards))
    return floor_from(plain, variations(runner, "a", forwards))


def variations(
    runner: ExperimentRunner, side: SideName, forwards: tuple[int, int]
) -> list[tuple[Variation, Trace]]:
    """One side again, run on its own canvases, under every change that should not matter."""
    return [(v, runner.ask(Follow(side, side, forwards, variation=v))) for v in VARIATIONS]


def lifted(model: Model) -> Model:
    """The same model in float32, or in float64 if it is in float32 already.

    Raises:
        Unavailable: there is not enough memory.
    """
    return _copied(model, torch.float64 if model.network.dtype == torch.float32 else torch.float32)


def _copied(model: Model, dtype: torch.dtype) -> Model:
    """The same weights in another dtype.

    Raises:
        Unavailable: there is not enough memory.
    """
    try:
        copy = model.network.copy(dtype)
    except (RuntimeError, MemoryError) as error:
        why = Sentence("there is no memory for a copy in {dtype}", dtype=Code(dtype))
        raise Unavailable(why) from error
    return replace(model, network=copy)


def _check_own(name: SideName, side: Side) -> None:
    """Refuse to run a side again with what is not its own: that would prove nothing about it.

    Raises:
        Unavailable: dtype or weights of the model at hand are not those that were recorded.
    """
    assert side.engine is not None
    model, header = side.engine.model, side.record.header
    dtype = str(model.network.dtype).removeprefix("torch.")
    if header.dtype != dtype:
        raise Unavailable(
            Sentence(
                "side {side} ran in {own}, and what is here runs in {other}",
                side=name.upper(),
                own=Code(header.dtype),
                other=Code(dtype),
            )
        )
    if same_weights(model.fingerprint, header.weights) is False:
        raise Unavailable(Sentence("side {side} ran with other weights", side=name.upper()))


def _only_its_trace(side: SideName) -> Sentence:
    return Sentence("side {side} cannot be run again: only its trace is here", side=side.upper())


def settings_of(record: RunRecord, changes: dict[str, str]) -> Settings:
    """The settings that a record states, with some changed; the defaults where it states none."""
    header = record.header
    known = {n: t for n, t in header.settings.items() if n in Settings.__dataclass_fields__}
    if header.source != "skipstone":
        known = {"gen_length": str(header.gen_length)}
    return parse_settings(known | changes).all_stated()


def _recording(record: RunRecord, tensors: tuple[int, int] | None) -> tuple[Recorder, Observer]:
    """A recorder of decisions, and of the tensors of some forwards."""
    if tensors is None:
        recorder = Recorder()
    else:
        places = [(s.block, s.step) for s in record.steps if tensors[0] <= s.forward <= tensors[1]]
        recorder = Recorder("window", window=(places[0], places[-1]))
    return recorder, Observers((recorder,))


def _made_up(record: RunRecord, experiment: Rescore) -> StepRecord:
    """A step over the whole generation region with a canvas of our own."""
    start, gen_length = record.prompt_length, record.header.gen_length
    ids, status = np.array(experiment.ids, np.int32), np.full(gen_length, 3, np.uint8)
    offsets = np.array(experiment.masked) - start
    ids[offsets], status[offsets] = record.header.mask_id, 2
    empty = np.zeros(0, np.int32)
    everything = np.arange(record.length, dtype=np.int32)
    nothing = Candidates(*[empty] * 10, eligible=empty.astype(bool), committed=empty.astype(bool))
    return StepRecord(
        forward=0,
        block=0,
        step=0,
        recovery=False,
        refresh=True,
        block_start=start,
        block_stop=start + gen_length,
        ids_before=ids,
        ids_after=ids,
        status_before=status,
        status_after=status,
        rows=everything,
        finished=everything,
        entered_age=np.zeros(record.length, np.int32),
        finished_age=np.zeros(record.length, np.int32),
        candidates=nothing,
        judgements=None,
    )
