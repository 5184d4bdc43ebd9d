"""``skipstone compare``: one prompt under two settings, and the first step at which they part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from skipstone.cli.decisions import both_sides, parting
from skipstone.cli.options import (
    RunSpec,
    given,
    loaded_pair,
    memory_option,
    run_options,
    run_spec,
)
from skipstone.cli.prompts import one_prompt
from skipstone.cli.report import report_pair
from skipstone.cli.tables import say_table
from skipstone.cli.terminal import drawing_console, say, say_json
from skipstone.cli.tokens import Tokens, ids_option, tokens_of_model
from skipstone.diff import Comparison
from skipstone.diff import compare as compare_records
from skipstone.diff.compare import similarity_by_block, tokens_differ
from skipstone.engine import parse_spec
from skipstone.outputs import check_output
from skipstone.report.report import check_drawing

if TYPE_CHECKING:
    from skipstone.engine import Result
    from skipstone.engine.observe import Observer
    from skipstone.engine.prompts import Prompt
    from skipstone.models.load import Model
    from skipstone.tracing import Recorder
    from skipstone.tracing.record.recorder import Level

_SHOWN_POSITIONS = 12


@click.command()
@click.argument("prompt", required=False)
@click.option("--a", "spec_a", metavar="SPEC", required=True, help='"cache=dual skip=cosine:..."')
@click.option("--b", "spec_b", metavar="SPEC", required=True, help="The other run.")
@run_options
@memory_option
@click.option("--prompt-ids", metavar="5,17,3", help="Token ids instead of text.")
@ids_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--report", "page", metavar="FILE", type=click.Path(path_type=Path), help="Write a page, too."
)
def compare(
    prompt: str | None,
    spec_a: str,
    spec_b: str,
    prompt_ids: str | None,
    *,
    ids: bool,
    as_json: bool,
    page: Path | None,
    **options: object,
) -> int:
    """Decode PROMPT under two run specs and find the first step at which they part.

    A run spec is key=value pairs separated by spaces; keys are the options below. What it does not
    name is shared and set by the options. Exits with 0 if both runs made the same decisions, 1 if
    not, 2 on an error.
    """
    source = one_prompt(prompt, prompt_ids)
    if page is not None:
        check_drawing()
        check_output(page)
    shared = given(options)
    a, b = (run_spec({**shared, **parse_spec(spec)}) for spec in (spec_a, spec_b))
    (a, model_a), (b, model_b) = loaded_pair(a, b)
    level: Level = "decisions" if page is None else "sketches"
    result_a, recorder_a = _run(model_a, a, source, level)
    result_b, recorder_b = _run(model_b, b, source, level)
    comparison = compare_records(recorder_a.records[0], recorder_b.records[0])
    if as_json:
        sides = {"a": result_a.as_json(), "b": result_b.as_json()}
        say_json(comparison.as_json() | sides)
    else:
        tokens = tokens_of_model(model_a, ids=ids)
        _print(comparison, (result_a, result_b), (spec_a, spec_b), tokens, a, source)
    if page is not None:
        from skipstone.cli.specs import SpecPair
        from skipstone.tracing.experiments.runner import Side

        side_a = Side(recorder_a.trace, 0, a.engine(model_a))
        side_b = Side(recorder_b.trace, 0, b.engine(model_b))
        report_pair(SpecPair(side_a, side_b, model_a), page, (spec_a, spec_b))
    return 0 if comparison.identical else 1


def _run(model: Model, spec: RunSpec, prompt: Prompt, level: Level) -> tuple[Result, Recorder]:
    from skipstone.cli.watch import watching
    from skipstone.engine.observe import Observers
    from skipstone.tracing import Recorder

    engine, recorder = spec.engine(model), Recorder(level)
    with watching(stream=False, console=drawing_console()) as bar:
        members: tuple[Observer, ...] = (recorder,) if bar is None else (recorder, bar)
        return engine.generate(prompt, observer=Observers(members)), recorder


def _print(
    comparison: Comparison,
    results: tuple[Result, Result],
    specs: tuple[str, str],
    tokens: Tokens,
    shared: RunSpec,
    prompt: Prompt,
) -> None:
    where = f"{shared.model}, {comparison.a.header.dtype} on {comparison.a.header.device}"
    name = f"{prompt!r} " if isinstance(prompt, str) else ""
    say(("prompt ", "label"), f"{name}({results[0].prompt_tokens} tokens, {where})")
    for label, spec, result in zip("AB", specs, results, strict=True):
        say()
        say((f"{label}  {spec}", "head"))
        say(f"   {' '.join(result.text.split())}")
        say((f"   {result.stats}", "label"))
        for text in result.notes:
            say("   ", ("note: ", "doubt"), text)
    say()
    for line in _verdict(comparison, tokens):
        say(line)
    _print_similarity(comparison)


def _verdict(comparison: Comparison, tokens: Tokens) -> list[str]:
    """Where the runs part, in words."""
    start, first = comparison.a.prompt_length, comparison.first
    if first is None:
        return ["the runs do not part: same decisions in the same steps, same tokens"]
    lines = [
        f"first divergence: block {first.block}, step {first.step}, new token "
        f"{first.position - start} (position {first.position}): {parting(first, start)}",
        *both_sides(first, tokens),
    ]
    differing = comparison.differing_positions
    if differing:
        shown = ", ".join(str(p - start) for p in differing[:_SHOWN_POSITIONS])
        more = f", and {len(differing) - _SHOWN_POSITIONS} more"
        tail = more if len(differing) > _SHOWN_POSITIONS else ""
        places = "new token" if len(differing) == 1 else "new tokens"
        lines.append(f"{tokens_differ(len(differing))}: {places} {shown}{tail}")
    else:
        lines.append("the final tokens are the same all the same")
    return lines


def _print_similarity(comparison: Comparison) -> None:
    """A table of what the skip rules saw, if any did."""
    columns = ("run", "block", "judged", "skipped", "smallest similarity", "median", "largest")
    rows = [
        (
            label,
            row.block,
            row.judged,
            row.skipped,
            *map(_similarity, (row.smallest, row.median_mean, row.largest_mean)),
        )
        for label, record in (("A", comparison.a), ("B", comparison.b))
        for row in similarity_by_block(record)
    ]
    if rows:
        say()
        say_table(columns, rows, keys=2)


def _similarity(value: float) -> str:
    return f"{value:.6f}"
