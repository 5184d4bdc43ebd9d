"""Diagnosis with everything at hand: two traces, and the engines that can run them again."""

from __future__ import annotations

from collections.abc import Callable

from skipstone.checks import checked
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.diagnosis.diagnose import diagnose as examine
from skipstone.diff.compare import first_apart
from skipstone.engine import Engine
from skipstone.errors import ConfigError, TraceError
from skipstone.kinds import of_kind
from skipstone.models.load import Model
from skipstone.quoting import shown
from skipstone.record.recorded import Given, trace_of
from skipstone.tracing.experiments.runner import ExperimentRunner, Side

_ENGINE = "a skipstone.Engine with the settings of the run"


def diagnose(
    a: Given,
    b: Given,
    *,
    sample: int | None = None,
    engine_a: Engine | None = None,
    engine_b: Engine | None = None,
    model: Model | None = None,
    time_limit: float = float("inf"),
    progress: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Say why two recorded runs of one prompt part, and prove it as well as can be done here.

    Args:
        a: the baseline: a recorder, what ``attach`` gave, a trace, or the path of one.
        b: the run to explain, likewise.
        sample: which request, if they are batches; None takes the first whose runs part.
        engine_a: runs A again; without it A cannot be changed and tried again.
        engine_b: the same for B.
        model: leads along recorded canvases; A's model if it is not given.
        time_limit: seconds for experiments; unless it is given, only their number is limited, so
            that a verdict does not depend on how busy the machine is.
        progress: told what is being tried.

    Raises:
        ConfigError: a trace has no such sample, or no finished step; what was given is no run, or
            another argument is wrong.
        TraceError: a trace lacks steps that were recorded, or there is none at a path.

    Example:
        ``print(diagnose(exact, fast, engine_a=engine_a, engine_b=engine_b))``
    """
    of_kind("engine_a", engine_a, Engine, _ENGINE, optional=True)
    of_kind("engine_b", engine_b, Engine, _ENGINE, optional=True)
    if progress is not None and not callable(progress):
        raise ConfigError(f"progress is {shown(progress)}, must be a function of a text")
    trace_a, trace_b = trace_of(a, "a"), trace_of(b, "b")
    if sample is None:
        sample = first_apart(trace_a, trace_b)
    return examined(
        Side(trace_a, sample, engine_a),
        Side(trace_b, sample, engine_b),
        model,
        time_limit=time_limit,
        progress=progress,
    )


def examined(
    a: Side,
    b: Side,
    model: Model | None,
    *,
    time_limit: float,
    progress: Callable[[str], None] | None = None,
) -> Diagnosis:
    """The same for two sides that are ready; see ``diagnose``.

    Raises:
        ConfigError: a trace has no such sample, or no finished step.
        TraceError: a trace lacks steps that were recorded.
    """
    of_kind("model", model, Model, "what skipstone.load gave", optional=True)
    checked("time_limit", time_limit, float)
    for name, side in (("A", a), ("B", b)):
        checked("sample", side.sample, int)
        records = side.trace.records
        if not 0 <= side.sample < len(records):
            raise ConfigError(f"sample is {side.sample}, {name} has {len(records)} samples")
        if not side.record.steps:
            raise ConfigError(f"{name} has no finished step; nothing can be said about it")
        if side.record.holes:
            raise TraceError(
                f"{name} cannot be run again, since {side.record.holes[0]}; copy it again"
            )
    if model is None and a.engine is not None:
        model = a.engine.model
    runner = ExperimentRunner(a, b, model, time_limit=time_limit, progress=progress)
    return examine(Case(a.trace, b.trace, runner, a.sample, b.sample))
