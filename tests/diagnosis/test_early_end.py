"""A block that ends with masks is named also where a later block fills them."""

from __future__ import annotations

import pytest

from skipstone import Engine, Settings, load
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import Diagnosis, diagnose
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.engine.progress import RequestState, RequestStep
from skipstone.host_canvas import HostCanvas
from skipstone.record import MemoryTrace
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import ExperimentRunner, Side
from skipstone.unmask import Threshold

# A step takes one token here, or few: the first block takes four steps.
SETTINGS = Settings(gen_length=24, block_length=8, unmask=Threshold(value=0.999), eos_stop=False)
PROMPT = "Who is Newton, physics?"
STOPPED = SETTINGS.replace(budget="stop", steps=6)


def recorded(engine: Engine) -> MemoryTrace:
    recorder = Recorder("decisions")
    engine.generate(PROMPT, observer=recorder)
    return recorder.trace


def filled(trace: MemoryTrace) -> bool:
    outcome = trace.records[0].outcome
    return outcome is not None and not outcome.masks_left


def caused(found: Diagnosis) -> Finding:
    assert found.cause is not None
    return found.cause


def test_a_budget_that_leaves_masks_to_a_later_block() -> None:
    model = load("pebble")
    engines = Engine(model, SETTINGS), Engine(model, STOPPED)
    a, b = (recorded(engine) for engine in engines)
    assert filled(a)
    assert filled(b)
    sides = Side(a, 0, engines[0]), Side(b, 0, engines[1])
    cause = caused(diagnose(Case(a, b, ExperimentRunner(*sides, model))))
    assert cause.rule == "budget-exhausted"
    assert cause.proof >= Proof.SUFFICIENT
    assert (cause.where.block, cause.where.step) == (0, 1)


def test_code_that_leaves_a_block_early(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("pebble")
    engine = Engine(model, SETTINGS)
    a, following = recorded(engine), RequestState.next_step

    def early(self: RequestState, host: HostCanvas) -> RequestStep | None:
        if self.step >= 2:
            self.block, self.step = self.block + 1, 0
        return following(self, host)

    monkeypatch.setattr(RequestState, "next_step", early)
    b = recorded(engine)
    monkeypatch.undo()
    cause = caused(diagnose(Case(a, b, ExperimentRunner(Side(a, 0, engine), Side(b), model))))
    assert cause.rule == "stop-rule"
    assert (cause.where.block, cause.where.step) == (0, 1)
