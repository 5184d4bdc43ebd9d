"""One trial: record A and B, diagnose them with B at hand or from its trace alone, and score."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from faults.models import model
from faults.specimen import Pair, Specimen
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import Diagnosis, diagnose
from skipstone.diff import compare
from skipstone.engine import Engine
from skipstone.record import MemoryTrace, RunRecord
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import ExperimentRunner, Side

NOISE = frozenset(
    ("same", "near-tie-token", "commit-tie", "threshold-in-band", "batch-effect", "backend-noise")
)
"""Verdicts that put a difference down to noise."""

# Scores that differ by less than this are no effect of a fault.
_SEEN = 1e-4


@dataclass(frozen=True)
class Trial:
    """A specimen at one prompt and pair of settings, in one mode."""

    specimen: Specimen
    prompt: str
    pair: Pair
    alone: bool
    """B is known by its trace alone, as when a stranger sends it."""

    @property
    def name(self) -> str:
        """Of the specimen."""
        return self.specimen.name

    @property
    def first(self) -> bool:
        """Whether this is the first prompt and pair of settings."""
        at = self.specimen.prompts.index(self.prompt), self.specimen.pairs.index(self.pair)
        return at == (0, 0)


@dataclass(frozen=True)
class Outcome:
    """What came out of a trial, as plain data."""

    name: str
    right: tuple[int, ...]
    prompt: str
    settings: str
    alone: bool
    control: bool
    acted: bool
    """Whether the fault changed anything here; if not, nothing else is said of it."""
    verdict: str = ""
    number: int = 0
    """Of the cause that was named; 0 if none was."""
    proof: str = ""
    where: str = ""
    truth: str = ""
    evidence: str = ""
    cause_right: bool = False
    """Of a control: that no cause was named."""
    step_right: bool = False
    place_right: bool = False
    seconds: float = 0.0
    foreign: bool = False
    """B is other people's code, and ``alone`` says that no model of ours was at hand."""


@dataclass(frozen=True)
class Recorded:
    """Both runs of a trial, and the engines that made them."""

    a: MemoryTrace
    b: MemoryTrace
    engine_a: Engine
    engine_b: Engine


def run(trial: Trial) -> Outcome:
    """Record, diagnose and score one trial."""
    specimen = trial.specimen
    runs = record(specimen, trial.prompt, trial.pair)
    blank = Outcome(
        name=specimen.name,
        right=specimen.wanted(trial.alone),
        prompt=trial.prompt,
        settings=trial.pair.b,
        alone=trial.alone,
        control=specimen.control,
        acted=_acts(specimen, runs.a.records[0], runs.b.records[0]),
    )
    if not (blank.acted or blank.control):
        return blank
    started = time.perf_counter()
    found = examine(trial, runs)
    blank = replace(blank, seconds=round(time.perf_counter() - started, 2))
    if blank.control:
        return _alarmed(blank, found)
    return _scored(blank, specimen, found, runs)


@lru_cache(maxsize=1)
def record(specimen: Specimen, prompt: str, pair: Pair) -> Recorded:
    """A and B as they are, with all tensors: A without the fault, B within it.

    Both modes look at the same runs, so the latest ones are kept.
    """
    settings_a, settings_b = pair.settings()
    mine = model(specimen.model)
    if specimen.tune is not None:
        settings_a = settings_b = specimen.tune(Engine(mine, settings_a), prompt, specimen.fault)
    engine_a = Engine(mine, settings_a)
    engine_b = Engine(model(specimen.model_b or specimen.model), settings_b)
    prompts_b = [specimen.prompt_b(prompt), *specimen.companions]
    with specimen.fault():
        for earlier in specimen.before:
            engine_b.generate(earlier)
        b = _recorded(engine_b, prompts_b)
    return Recorded(_recorded(engine_a, [prompt]), b, engine_a, engine_b)


def _recorded(engine: Engine, prompts: Sequence[str]) -> MemoryTrace:
    recorder = Recorder("full")
    engine.generate_batch(list(prompts), observer=recorder)
    return recorder.trace


def examine(trial: Trial, runs: Recorded) -> Diagnosis:
    """Diagnose with B at hand and without tensors, or from its full trace alone."""
    a, b, fault, watched = runs.a, runs.b, trial.specimen.fault, trial.specimen.watched
    # One request of a batch cannot be run again as it was: its tensors must have been recorded.
    bare = watched == "alike" and not (trial.alone or trial.specimen.companions)
    a = _decisions(a) if bare or watched == "a decisions" else a
    b = _decisions(b) if bare or watched == "b decisions" else b
    ours = Side(a, 0, runs.engine_a)
    theirs = Side(b) if trial.alone else Side(b, 0, runs.engine_b, fault)
    return diagnose(Case(a, b, ExperimentRunner(ours, theirs, runs.engine_a.model)))


def _decisions(full: MemoryTrace) -> MemoryTrace:
    """The trace that a recorder of decisions would have made."""
    trace = MemoryTrace()
    trace.begin([record.header for record in full.records], "decisions")
    for sample, taken in enumerate(full.records):
        for step in taken.steps:
            trace.step(sample, step, {})
    trace.end([taken.outcome for taken in full.records if taken.outcome is not None])
    return trace


def _acts(specimen: Specimen, a: RunRecord, b: RunRecord) -> bool:
    """Whether a fault shows in anything: inputs, decisions, rows, skips or scores."""
    if a.header.prompt_ids != b.header.prompt_ids or a.header.weights != b.header.weights:
        return True
    if not compare(a, b).identical:
        return True
    if specimen.lawful or a.header.settings != b.header.settings:
        return False
    for x, y in zip(a.steps, b.steps, strict=True):
        if x.skipped != y.skipped or not np.array_equal(x.rows, y.rows):
            return True
        apart = np.abs(x.candidates.confidence - y.candidates.confidence)
        if not (apart < _SEEN).all():
            return True
    return False


def _alarmed(blank: Outcome, found: Diagnosis) -> Outcome:
    """A control must give a verdict of noise, and the remarks that are due."""
    given = {remark.number for remark in found.remarks}
    cause = found.cause
    return replace(
        blank,
        verdict=found.verdict,
        evidence="" if cause is None else cause.evidence,
        cause_right=found.verdict in NOISE and given >= set(blank.right),
    )


def _scored(blank: Outcome, specimen: Specimen, found: Diagnosis, runs: Recorded) -> Outcome:
    """Hold the first finding against the truth."""
    truth = specimen.truth
    step, cause = truth.first(runs.a.records[0], runs.b.records[0]), found.cause
    blank = replace(blank, verdict=found.verdict)
    if step is None:
        return replace(blank, truth="the truth names no step of B")
    blank = replace(blank, truth=f"block {step.block}, step {step.step}")
    if cause is None:
        open_ = blank.alone and specimen.open_from_trace
        return replace(blank, cause_right=open_, step_right=open_, place_right=open_)
    place = cause.where
    return replace(
        blank,
        number=cause.number,
        proof=str(cause.proof),
        where=str(place),
        evidence=cause.evidence,
        cause_right=cause.number in blank.right,
        step_right=(place.block, place.step) == (step.block, step.step),
        place_right=truth.place_right(cause, step),
    )
