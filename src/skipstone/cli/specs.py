"""Runs that a command takes as a trace or as a run spec, and the means to run them again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from skipstone.cli.idle import say_idle_settings
from skipstone.cli.options import loaded_pair, run_spec
from skipstone.cli.terminal import note
from skipstone.engine import Engine, parse_spec
from skipstone.engine.prompts import Prompt
from skipstone.errors import CheckpointError, ConfigError, TraceError
from skipstone.models.load import Model, load
from skipstone.quoting import shown
from skipstone.record import Header, StoredTrace, Trace
from skipstone.record.weights import same_weights
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import Side, settings_of
from skipstone.tracing.replay.recorded_model import recorded_model


def parse_at(text: str) -> tuple[int, int]:
    """Parse ``0.10`` or, as a report and its address write it, ``b0.s10``: block and step.

    Raises:
        ConfigError: it is no pair of whole numbers.
    """
    found = re.fullmatch(r"b?(\d{1,9})\.s?(\d{1,9})", text, re.ASCII)
    if found is None:
        raise ConfigError(f"--at is {shown(text)}, must be BLOCK.STEP, like 0.3 or b0.s3")
    return int(found[1]), int(found[2])


def looks_like_trace(text: str) -> bool:
    """Whether an argument names a folder rather than a run spec."""
    return "=" not in text or Path(text).is_dir()


def model_of(trace: StoredTrace, name: str | None) -> Model:
    """The model that the user names, or else the one that the trace names.

    Raises:
        CheckpointError: it is not here.
        ConfigError: the trace's has other weights than were recorded.
    """
    header = trace.headers[0]
    if name is not None:
        return load(name, dtype=header.dtype)
    model = recorded_model(header)
    if header.source == "skipstone":
        _check_weights(model, header, trace.path)
    return model


def _check_weights(model: Model, header: Header, path: Path) -> None:
    """Refuse weights that are not the recorded ones, and say if that is not known."""
    same = same_weights(model.fingerprint, header.weights)
    if same is None and header.weights:
        note(
            f"{path} has a fingerprint of an older version, which cannot be held against the "
            f"weights found here"
        )
    if same is False:
        raise ConfigError(
            f"{path} was recorded with other weights of {shown(header.model)} ({header.weights}) "
            f"than those found here ({model.fingerprint}); give their directory with --model"
        )


def check_whole(trace: StoredTrace, sample: int) -> None:
    """Refuse a sample that cannot be followed from its first step to its last.

    Raises:
        ConfigError: there is none of this number, or it has no finished step.
        TraceError: steps are missing.
    """
    if not 0 <= sample < len(trace.headers):
        raise ConfigError(
            f"--sample is {sample}, {trace.path} has {len(trace.headers)} samples, from 0 on"
        )
    record = trace.records[sample]
    if record.holes:
        raise TraceError(
            f"{trace.path} cannot be run again, since {record.holes[0]}; copy it again; 'skipstone "
            f"diff' compares what is there"
        )
    if not record.steps:
        raise ConfigError(f"{trace.path} has no finished step; nothing can be said about it")


@dataclass(frozen=True)
class SpecPair:
    """Two sides and the reference model, if it is here."""

    a: Side
    b: Side
    reference: Model | None


def traced_pair(a: StoredTrace, b: StoredTrace, sample: int, model_name: str | None) -> SpecPair:
    """Two traces; our own code can run them again if their model is here."""
    for trace in (a, b):
        check_whole(trace, sample)
    try:
        model = model_of(a, model_name)
    except CheckpointError as error:
        if model_name is not None:
            raise
        note(f"nothing is run again: {error}")
        model = None
    own = _own_model(a, b, model, model_name)
    return SpecPair(_side(a, sample, model), _side(b, sample, own), model)


def _own_model(
    a: StoredTrace, b: StoredTrace, model: Model | None, name: str | None
) -> Model | None:
    """B's own model: A's if it has the same name, dtype and weights, else loaded for itself."""
    mine, theirs = a.headers[0], b.headers[0]
    alike = (mine.model, mine.dtype) == (theirs.model, theirs.dtype)
    if model is None or theirs.source != "skipstone":
        return model
    if alike and same_weights(mine.weights, theirs.weights) is not False:
        return model
    try:
        return model_of(b, name)
    except (CheckpointError, ConfigError) as error:
        note(f"B is not run again: {error}")
        return None


def _side(trace: Trace, sample: int, model: Model | None) -> Side:
    record = trace.records[sample]
    if model is None or record.header.source != "skipstone":
        return Side(trace, sample)
    return Side(trace, sample, Engine(model, settings_of(record, {})))


def decoded_pair(spec_a: str, spec_b: str, shared: dict[str, str], prompt: Prompt) -> SpecPair:
    """Two run specs, decoded now; both can be run again."""
    specs = [run_spec({**shared, **parse_spec(spec)}) for spec in (spec_a, spec_b)]
    (run_a, model_a), (run_b, model_b) = loaded_pair(*specs)
    say_idle_settings(run_a.settings, run_b.settings)
    a = _decoded(run_a.engine(model_a), prompt)
    return SpecPair(a, _decoded(run_b.engine(model_b), prompt), model_a)


def _decoded(engine: Engine, prompt: Prompt) -> Side:
    recorder = Recorder()
    engine.generate(prompt, observer=recorder)
    return Side(recorder.trace, 0, engine)
