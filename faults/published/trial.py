"""One trial: the good and the bad run are recorded from outside, and the diagnosis is asked why."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Literal

import numpy as np

from faults.published.code import Base, Code, Job
from faults.published.fault import Fault
from skipstone import attach, diagnose
from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.diff import compare
from skipstone.files import one_line
from skipstone.foreign.attach.attached import Attached
from skipstone.record import RunRecord

Verdict = Literal["right", "inconclusive", "WRONG", "does not act", "broke"]

# Scores that differ by less are no effect of a fault.
_SEEN = 1e-4


@dataclass(frozen=True)
class Outcome:
    """What came out of a trial, as plain data."""

    fault: str
    base: str
    job: str
    says: str
    causes: tuple[str, ...]
    model: bool
    """Whether a model of ours with the same weights was at hand."""
    verdict: Verdict
    said: str = ""
    """The rule that was named first, and its sentence."""
    proof: str = ""
    where: str = ""
    truth: str = ""
    step_right: bool = False
    place_right: bool = False
    evidence: str = ""
    seconds: float = 0.0

    @property
    def counts(self) -> bool:
        """Whether the fault did anything."""
        return self.verdict in ("right", "inconclusive", "WRONG")


def run(fault: Fault, job: Job, base: Base, modules: Mapping[str, ModuleType]) -> list[Outcome]:
    """Record both runs, and diagnose them without a model and, where there is one, with it."""
    blank = Outcome(
        fault.name, fault.base, str(job), fault.says, fault.causes, False, "does not act"
    )
    try:
        good, bad = base.at(modules, job), base.at(modules, job)
        with recorder(good) as of_good:
            good.decode(job)
        with fault.plant(bad), recorder(bad, sanitize=True) as of_bad:
            bad.decode(job if fault.settings is None else fault.settings(job))
    except Exception as error:
        # Whatever their code raises: the other trials go on, and this one is listed.
        return [replace(blank, verdict="broke", said=one_line(error))]
    a, b = of_good.trace.records[fault.request], of_bad.trace.records[fault.request]
    if not acts(a, b):
        return [blank]
    models = [None, job.model] if base.ours else [None]
    outcomes = list[Outcome]()
    for model in models:
        began, outcome = time.perf_counter(), replace(blank, model=model is not None)
        try:
            found = diagnose(of_good.trace, of_bad.trace, sample=fault.request, model=model)
            outcome = scored(outcome, fault, found, a, b)
        except Exception as error:
            said = f"the diagnosis crashed: {type(error).__name__}: {one_line(error)}"
            outcome = replace(outcome, verdict="inconclusive", said=said)
        outcomes.append(replace(outcome, seconds=round(time.perf_counter() - began, 2)))
    return outcomes


def recorder(code: Code, *, sanitize: bool = False) -> Attached:
    """Records what a loop does; no function that calls the loop is told which of the two it is.

    Arguments of those functions are compared, too, as what a run was given.
    """
    return attach(
        code.net, mask_id=code.mask_id, eos_id=code.eos_id, level="full", sanitize=sanitize
    )


def acts(a: RunRecord, b: RunRecord) -> bool:
    """Whether two runs differ in decisions, rows or scores."""
    if a.header.prompt_ids != b.header.prompt_ids:
        return True
    if not compare(a, b).identical or len(a.steps) != len(b.steps):
        return True
    for x, y in zip(a.steps, b.steps, strict=True):
        if not np.array_equal(x.rows, y.rows) or not np.array_equal(
            x.candidates.position, y.candidates.position
        ):
            return True
        if not np.allclose(x.candidates.confidence, y.candidates.confidence, rtol=0, atol=_SEEN):
            return True
    return False


def scored(blank: Outcome, fault: Fault, found: Diagnosis, a: RunRecord, b: RunRecord) -> Outcome:
    """Hold the first finding against the truth."""
    step, cause = fault.truth.first(a, b), found.cause
    truth = "nowhere" if step is None else f"block {step.block}, step {step.step}"
    if cause is None:
        return replace(blank, verdict="inconclusive", said=found.verdict, truth=truth)
    right = fault.right(cause)
    at = None if step is None else (step.block, step.step)
    return replace(
        blank,
        verdict="right" if right else "WRONG",
        said=f"{cause.rule}: {cause.what}",
        proof=str(cause.proof),
        where=str(cause.where),
        truth=truth,
        step_right=at == (cause.where.block, cause.where.step),
        place_right=step is not None and fault.truth.place_right(cause, step),
        evidence=f"{cause.evidence} | {cause.experiment}",
    )
