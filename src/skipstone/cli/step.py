"""``skipstone step``: one step from the same recorded state, under several settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from skipstone.cli.idle import say_idle_settings
from skipstone.cli.tables import say_table
from skipstone.cli.terminal import say, say_json
from skipstone.cli.tokens import Tokens, ids_option, tokens_of_model
from skipstone.engine import Settings, parse_settings, parse_spec
from skipstone.errors import ConfigError
from skipstone.record import RunRecord, StoredTrace, open_trace

if TYPE_CHECKING:
    from skipstone.models.load import Model
    from skipstone.tracing.replay.stepping import StepDifference, Stepped


@click.command()
@click.argument("trace")
@click.option("--at", "place", metavar="BLOCK.STEP", required=True, help="Which recorded step.")
@click.option(
    "--with",
    "specs",
    metavar="SPEC",
    multiple=True,
    help='Settings to try: key=value pairs over the recorded ones. Repeat it. "" is as recorded.',
)
@click.option("--model", help="Directory of the model, if it is not where it was.")
@click.option("--sample", default=0, show_default=True, help="Which sample of the trace.")
@ids_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--debug", is_flag=True, expose_value=False, help="Print tracebacks.")
def step(
    trace: str,
    place: str,
    specs: tuple[str, ...],
    model: str | None,
    sample: int,
    *,
    ids: bool,
    as_json: bool,
) -> int:
    """Run one step of TRACE again under several settings, each from the same untouched state.

    Exits with 0 if all of them commit the same tokens, 1 if not, 2 on an error.
    """
    from skipstone.cli.specs import parse_at
    from skipstone.tracing.replay.stepping import difference, step_under

    tried, at = specs or ("",), parse_at(place)
    with open_trace(Path(trace)) as opened:
        record, loaded = _to_run_again(opened, sample, model)
        settings = [_settings(record, spec) for spec in tried]
        say_idle_settings(*settings)
        stepped = step_under(loaded, record, at, settings)
        differences = [difference(stepped[0], other) for other in stepped[1:]]
    if as_json:
        say_json(_as_json(tried, stepped, differences, loaded))
    else:
        _print(tried, stepped, differences, tokens_of_model(loaded, ids=ids))
    same = all(one.step.committed == stepped[0].step.committed for one in stepped)
    changed = any(set(d.top_changed) & set(stepped[0].step.committed) for d in differences)
    return 0 if same and not changed else 1


def _to_run_again(trace: StoredTrace, sample: int, name: str | None) -> tuple[RunRecord, Model]:
    """A sample of a trace, and the model that made it."""
    from skipstone.cli.specs import check_whole, model_of

    check_whole(trace, sample)
    record = trace.records[sample]
    if record.header.source != "skipstone":
        raise ConfigError(
            f"{trace.path} was recorded from other code, which cannot be run from here"
        )
    return record, model_of(trace, name)


def _settings(record: RunRecord, spec: str) -> Settings:
    from skipstone.tracing.experiments.runner import settings_of

    texts = {name.replace("-", "_"): text for name, text in parse_spec(spec).items()}
    return parse_settings(texts, settings_of(record, {}))


def _commits(one: Stepped, model: Model) -> list[tuple[int, int, str, float]]:
    return [
        (c.position, c.token, model.text.token(c.token), c.confidence)
        for c in one.step.candidates
        if c.committed
    ]


def _as_json(
    specs: tuple[str, ...], stepped: list[Stepped], differences: list[StepDifference], model: Model
) -> dict[str, object]:
    runs = [
        {
            "spec": spec,
            "rows": len(one.step.rows),
            "skipped": list(one.step.skipped),
            "commits": [
                {"position": p, "token": t, "text": text, "confidence": c}
                for p, t, text, c in _commits(one, model)
            ],
        }
        for spec, one in zip(specs, stepped, strict=True)
    ]
    against_first = [
        {
            "spec": spec,
            "largest_logit_difference": d.largest_logit,
            "top_changed": list(d.top_changed),
            "first_state": None
            if d.first_state is None
            else {"layer": d.first_state[0], "position": d.first_state[1]},
        }
        for spec, d in zip(specs[1:], differences, strict=True)
    ]
    return {"runs": runs, "against_first": against_first}


def _print(
    specs: tuple[str, ...],
    stepped: list[Stepped],
    differences: list[StepDifference],
    tokens: Tokens,
) -> None:
    at = stepped[0].step
    say(f"block {at.block}, step {at.step}: {at.masks_before} masks in the block")
    rows = list[tuple[object, ...]]()
    for spec, one in zip(specs, stepped, strict=True):
        commits = ", ".join(
            f"{c.position} {tokens(c.token)} {c.confidence:.4f}"
            for c in one.step.candidates
            if c.committed
        )
        rows.append((spec or "as recorded", len(one.step.rows), len(one.step.skipped), commits))
    say_table(("settings", "rows", "skipped", "commits"), rows)
    for spec, d in zip(specs[1:], differences, strict=True):
        where = "no state differs"
        if d.first_state is not None:
            where = f"states part at layer {d.first_state[0]}, position {d.first_state[1]}"
        say(
            f"{spec}: {where}; logits up to {d.largest_logit:.3g} apart over the whole vocabulary; "
            f"{len(d.top_changed)} positions have another best token"
        )
