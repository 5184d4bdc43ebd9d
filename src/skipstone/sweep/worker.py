"""One worker of a sweep: its model, and whatever unit it is given."""

from __future__ import annotations

from functools import lru_cache

import torch

from skipstone.engine import Engine
from skipstone.models.load import Model, load
from skipstone.sweep.causes import Explained, explain, side_of
from skipstone.sweep.measure import Measured, measure
from skipstone.sweep.together import decode_alone
from skipstone.sweep.units import CauseUnit, Unit, WorkerSetup
from skipstone.tracing.experiments.known import KnownAnswers
from skipstone.tracing.experiments.runner import Side

Found = Measured | Explained
"""What a worker found in a unit; ``then`` are the units that follow from it."""


class Worker:
    """Runs units, one after the other."""

    def __init__(self, model: Model, plan: WorkerSetup) -> None:
        """Decode once without measuring: what is allocated on first use belongs to no setting."""
        self._model, self._plan = model, plan
        self._trusted: tuple[str, Side] | None = None
        Engine(model, plan.baseline).generate([0])

    def run(self, unit: Unit) -> Found:
        """Measure prompts, or look for the cause of an answer.

        Raises:
            SkipstoneError: a prompt cannot be decoded under the baseline.
        """
        if isinstance(unit, CauseUnit):
            return explain(self._model, self._plan, unit, self._baseline(unit.text))
        return measure(self._model, self._plan, unit)

    def _baseline(self, text: str) -> Side:
        """The baseline's run of a prompt, alone; the answers of one prompt come in a row."""
        if self._trusted is None or self._trusted[0] != text:
            run = decode_alone(self._model, self._plan.baseline, text)
            self._trusted = text, side_of(self._model, run, KnownAnswers())
        return self._trusted[1]


def run_in_worker(plan: WorkerSetup, unit: Unit, threads: int) -> Found:
    """Run a unit with this process's own model."""
    return _worker(plan, threads).run(unit)


@lru_cache(maxsize=1)
def _worker(plan: WorkerSetup, threads: int) -> Worker:
    """The worker of this process, whose model is loaded once."""
    torch.set_num_threads(threads)
    return Worker(load(plan.model, device=plan.device, dtype=plan.dtype), plan)
