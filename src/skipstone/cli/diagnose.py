"""``skipstone diagnose``: why two runs part, in at most ten lines."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skipstone.checks import number
from skipstone.cli.escape import json_text
from skipstone.cli.idle import say_idle
from skipstone.cli.options import given, memory_option, run_options
from skipstone.cli.progress import status
from skipstone.cli.prompts import one_prompt
from skipstone.cli.terminal import note, say, say_json
from skipstone.cli.tokens import Tokens, ids_option, text_of_trace, tokens_of_trace
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.diagnosis.diagnose import diagnose as explain
from skipstone.diff.compare import first_apart
from skipstone.errors import ConfigError, PromptError, TraceError
from skipstone.quoting import shown
from skipstone.record import Experiment, StoredTrace, open_trace

if TYPE_CHECKING:
    from skipstone.cli.specs import SpecPair
    from skipstone.engine.prompts import Prompt
    from skipstone.tracing.experiments.runner import ExperimentRunner

# What is found, and the text of a token where its tokenizer is here.
NamedDiagnosis = tuple[Diagnosis, Callable[[int], str] | None]

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@click.command()
@click.argument("a")
@click.argument("b")
@click.argument("prompt", required=False)
@run_options
@memory_option
@click.option("--prompt-ids", metavar="5,17,3", help="Token ids instead of text.")
@click.option(
    "--sample", type=int, help="Which sample of two traces.  [default: the first that parts]"
)
@click.option(
    "--time-limit", metavar="60s", help="Time for experiments.  [default: a number of them]"
)
@click.option("--keep", is_flag=True, help="Write verdict and experiments into the trace of B.")
@ids_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def diagnose(
    a: str,
    b: str,
    prompt: str | None,
    prompt_ids: str | None,
    sample: int | None,
    time_limit: str | None,
    *,
    keep: bool,
    ids: bool,
    as_json: bool,
    **options: object,
) -> int:
    """Say why runs A and B part, and prove it by experiment.

    A and B are two traces, or two run specs with a PROMPT. Experiments run the engine again with
    one thing changed. Exits with 0 if both runs decide the same, 1 if not, 2 on an error.
    """
    from skipstone.cli.specs import looks_like_trace

    shared, limit = given(options), parse_seconds(time_limit)
    if looks_like_trace(a) != looks_like_trace(b):
        raise ConfigError("give two traces, or two run specs and a PROMPT; found one of each")
    if looks_like_trace(a):
        _check_for_traces(shared, prompt if prompt_ids is None else prompt_ids)
        diagnosis, text = _of_traces(
            Path(a), Path(b), sample, shared.get("model"), limit, keep=keep
        )
    else:
        if keep:
            say_idle("--keep has no effect on two run specs, which leave no trace")
        if sample:
            say_idle(f"--sample {sample} has no effect on two run specs, which decode one prompt")
        if prompt is None and prompt_ids is None:
            raise PromptError("two run specs need a PROMPT; two traces do not")
        source = one_prompt(prompt, prompt_ids)
        diagnosis, text = _of_specs(a, b, shared, source, limit)
    if as_json:
        say_json(diagnosis.as_json())
    else:
        for line in diagnosis.naming(Tokens(text, ids)).lines():
            say(line)
    return 0 if diagnosis.verdict == "same" else 1


def _of_traces(
    a: Path, b: Path, sample: int | None, model: str | None, limit: float, *, keep: bool
) -> NamedDiagnosis:
    from skipstone.cli.specs import traced_pair

    with open_trace(a) as trace_a, open_trace(b) as trace_b:
        if sample is None:
            sample = first_apart(trace_a, trace_b)
        pair = traced_pair(trace_a, trace_b, sample, model)
        header = trace_a.headers[sample]
        named = tokens_of_trace(header, text_of_trace(header, model), ids=False)
        return explained(pair, limit, keep=keep), named.text


def _of_specs(
    a: str, b: str, shared: dict[str, str], prompt: Prompt, limit: float
) -> NamedDiagnosis:
    from skipstone.cli.specs import decoded_pair

    pair = decoded_pair(a, b, shared, prompt)
    assert pair.reference is not None
    return explained(pair, limit), pair.reference.text.token


def _check_for_traces(shared: dict[str, str], prompt: str | None) -> None:
    """Two traces have their prompt and their settings."""
    if prompt is not None:
        raise ConfigError("two traces have their prompt; leave PROMPT out")
    say_idle(
        *(
            f"--{name.replace('_', '-')} has no effect on two traces, which have their settings"
            for name in shared
            if name != "model"
        )
    )


def parse_seconds(text: str | None, option: str = "--time-limit") -> float:
    """Parse ``60``, ``60s``, ``2m`` or ``1h``; without a limit, for ever.

    Raises:
        ConfigError: it is no time.
    """
    if text is None:
        return math.inf
    amount = text.rstrip("smhin")
    unit = text[len(amount) :] or "s"
    try:
        value = number(amount) * _UNITS[unit]
    except (ValueError, KeyError):
        raise ConfigError(f"{option} is {shown(text)}, must be a time like 60s or 2m") from None
    if not value > 0:
        raise ConfigError(f"{option} is {shown(text)}, must be more than nothing")
    return value


def explained(pair: SpecPair, time_limit: float = math.inf, *, keep: bool = False) -> Diagnosis:
    """Ask every rule; if that is asked for, keep what the experiments found in the trace of B."""
    from skipstone.tracing.experiments.runner import ExperimentRunner

    with status("looking at the traces") as tell:
        runner = ExperimentRunner(
            pair.a, pair.b, pair.reference, time_limit=time_limit, progress=tell
        )
        case = Case(pair.a.trace, pair.b.trace, runner, pair.a.sample, pair.b.sample)
        diagnosis = explain(case)
    if keep and isinstance(pair.b.trace, StoredTrace):
        try:
            _keep(pair.b.trace, runner, diagnosis)
        except TraceError as error:
            # What was found is worth more than its copy in the trace.
            note(str(error))
    return diagnosis


def _keep(trace: StoredTrace, runner: ExperimentRunner, diagnosis: Diagnosis) -> None:
    """Write experiments and verdict into the trace."""
    from skipstone.tracing.experiments.names import as_request, key_of

    kept = [
        Experiment(
            key_of(done.experiment),
            json.dumps(as_request(done.experiment)),
            json.dumps({"seconds": done.seconds, "outcome": done.outcome}),
        )
        for done in runner.done
    ]
    verdict = Experiment("diagnosis", json.dumps({"side": "b"}), json_text(diagnosis.as_json()))
    trace.add_experiments([*kept, verdict])
