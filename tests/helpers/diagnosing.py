"""Two runs of a model under different caches, diagnosed with both at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from skipstone.cache import CachePolicy
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import Diagnosis, diagnose
from skipstone.engine import Engine
from skipstone.models.load import Model
from skipstone.record import MemoryTrace
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import ExperimentRunner, Side
from tests.helpers.watching import BASE


def runs_under(
    model: Model,
    caches: Sequence[CachePolicy],
    prompt: Sequence[int],
    level: Literal["decisions", "full"] = "full",
) -> Callable[[int, int], Diagnosis]:
    """Record a prompt under each cache; what is given diagnoses one run beside another."""
    traces, engines = list[MemoryTrace](), list[Engine]()
    for cache in caches:
        recorder = Recorder(level)
        engines.append(Engine(model, BASE, cache=cache))
        engines[-1].generate(prompt, observer=recorder)
        traces.append(recorder.trace)

    def found(a: int, b: int) -> Diagnosis:
        one, other = (Side(traces[n], 0, engines[n]) for n in (a, b))
        return diagnose(Case(traces[a], traces[b], ExperimentRunner(one, other, model)))

    return found
