"""Runs that a command takes as a trace or as a run spec, and the means to run them again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skipstone.cli.options import RunSpec, run_spec
from skipstone.engine import Engine, parse_spec
from skipstone.engine.engine import Prompt
from skipstone.errors import ConfigError, PromptError, SkipstoneError
from skipstone.models.load import Model, load
from skipstone.record import Trace, open_trace
from skipstone.tracing import Recorder
from skipstone.tracing.experiments import Subject, settings_of


def parse_at(text: str) -> tuple[int, int]:
    """Parse ``block.step``.

    Raises:
        ConfigError: it is no pair of whole numbers.
    """
    block, dot, step = text.partition(".")
    if not (dot and block.isdigit() and step.isdigit()):
        raise ConfigError(f"--at is {text!r}, must be BLOCK.STEP, like 0.3")
    return int(block), int(step)


def looks_like_trace(text: str) -> bool:
    """Whether an argument names a folder rather than a run spec."""
    return "=" not in text or Path(text).is_dir()


def same_model(a: Trace, path: str) -> Model | None:
    """The model that a trace names, if it is here and has the recorded weights."""
    header = a.records[0].header
    try:
        model = load(header.model, dtype=header.dtype)
    except SkipstoneError:
        return None
    if header.weights and header.source == "skipstone" and model.fingerprint != header.weights:
        raise ConfigError(
            f"{path} was recorded with other weights of {header.model!r} ({header.weights}) than "
            f"those found here ({model.fingerprint}); give their directory with --model"
        )
    return model


@dataclass(frozen=True)
class Pair:
    """Two sides and the reference model, if it is here."""

    a: Subject
    b: Subject
    reference: Model | None


def traced_pair(path_a: str, path_b: str, sample: int, model_name: str | None) -> Pair:
    """Two traces; our own code can run them again if their model is here."""
    traces = open_trace(Path(path_a)), open_trace(Path(path_b))
    for path, trace in zip((path_a, path_b), traces, strict=True):
        if not 0 <= sample < len(trace.records):
            raise ConfigError(f"{path} has {len(trace.records)} samples, there is no {sample}")
        if not trace.records[sample].steps:
            raise ConfigError(f"{path} has no finished step; nothing can be said about it")
    model = load(model_name) if model_name is not None else same_model(traces[0], path_a)
    a, b = (_subject(trace, sample, model) for trace in traces)
    return Pair(a, b, model)


def _subject(trace: Trace, sample: int, model: Model | None) -> Subject:
    record = trace.records[sample]
    if model is None or record.header.source != "skipstone":
        return Subject(trace, sample)
    return Subject(trace, sample, Engine(model, settings_of(record, {})))


def decoded_pair(spec_a: str, spec_b: str, shared: dict[str, str], prompt: Prompt | None) -> Pair:
    """Two run specs, decoded now; both can be run again."""
    if prompt is None:
        raise PromptError("two run specs need a PROMPT; two traces do not")
    specs = [run_spec({**shared, **parse_spec(spec)}) for spec in (spec_a, spec_b)]
    model_a = specs[0].load()
    same = _model_key(specs[0]) == _model_key(specs[1])
    model_b = model_a if same else specs[1].load()
    a = _decoded(Engine(model_a, specs[0].settings), prompt)
    return Pair(a, _decoded(Engine(model_b, specs[1].settings), prompt), model_a)


def _model_key(spec: RunSpec) -> tuple[str, str, str]:
    return spec.model, spec.device, spec.dtype


def _decoded(engine: Engine, prompt: Prompt) -> Subject:
    recorder = Recorder()
    engine.generate(prompt, observer=recorder)
    return Subject(recorder.trace, 0, engine)
