"""``skipstone sweep``: which of many settings is the fastest that is safe?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skipstone.cli.escape import json_text
from skipstone.cli.idle import say_idle_settings
from skipstone.cli.numbers import check_some, whole
from skipstone.cli.options import RunSpec, given, parse_rate, run_options, run_spec, settled
from skipstone.cli.progress import progress
from skipstone.cli.prompts import executor_option, judge_option, read_questions, time_every_option
from skipstone.cli.tables import say_table
from skipstone.cli.terminal import aside, note, say, say_json
from skipstone.diff.agreement import check_budget
from skipstone.engine import parse_settings, parse_spec

if TYPE_CHECKING:
    from skipstone.models.load import Model
    from skipstone.sweep.grid import Setting
    from skipstone.sweep.run import Sweep
    from skipstone.sweep.summary import Assessment, Summary, SweepLevel


@click.command("sweep")
@click.option(
    "--prompts",
    "path",
    type=click.Path(path_type=Path),
    required=True,
    help='pebble, or a file: one a line, or .jsonl with {"prompt": ..., "answer": ...}.',
)
@click.option(
    "--grid",
    metavar="GRID",
    required=True,
    help='"skip_threshold=0.9,0.99 skip_layer_k=4,8 unmask=fixed,threshold:0.7"',
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the sweep; with the same folder, a stopped sweep goes on.",
)
@click.option(
    "--baseline",
    metavar="SPEC",
    default="",
    help="What is trusted.  [default: cache=none skip=none unmask=fixed]",
)
@click.option(
    "--bound",
    metavar="RATE",
    default="1%",
    help="How often a safe setting may differ.  [default: 1%]",
)
@click.option(
    "--level",
    type=click.Choice(("answer", "token")),
    default="answer",
    help="What has to be the same.  [default: answer]",
)
@judge_option
@click.option("--limit", type=whole, metavar="N", help="Only the first N prompts; more later.")
@executor_option
@time_every_option
@run_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def sweep_command(
    path: Path,
    grid: str,
    output: Path,
    baseline: str,
    bound: str,
    level: SweepLevel,
    rule: str,
    limit: int | None,
    who: str,
    time_every: int,
    *,
    as_json: bool,
    **options: object,
) -> None:
    """Decode prompts under every setting of a grid, and recommend one.

    Each prompt is decoded under the exact baseline and all settings in turn. Recommended is the
    fastest setting that differs from the baseline for fewer prompts than --bound, with 95 %
    confidence. The folder gets results.parquet, summary.json, pareto.html and pareto.png.
    """
    rate = parse_rate(bound, "--bound")
    check_budget(rate, 0.95)
    check_some("--limit", limit)
    base = run_spec(given(options))
    from skipstone.sweep.chart import check_charts
    from skipstone.sweep.executors import parse_executor
    from skipstone.sweep.grid import BASELINE, Setting, parse_grid
    from skipstone.sweep.run import exact, run_sweep
    from skipstone.sweep.store import check_parquet
    from skipstone.sweep.summary import Assessment

    check_parquet()
    check_charts()
    executor = parse_executor(who)
    trusted = parse_settings(parse_spec(baseline), exact(base.settings))
    points = parse_grid(grid, base.settings, trusted)
    questions, model = read_questions(path, "--prompts", rule), base.load()
    decided = _decided([Setting(BASELINE, trusted), *points.settings], base, model)
    _say_notes(points.notes)
    _say_too_few(Assessment([], decided, level, rate).needed, len(questions[:limit]), bound)
    with progress() as moved:
        sweep = run_sweep(
            model,
            questions,
            decided[1:],
            output,
            baseline=decided[0].settings,
            limit=limit,
            executor=executor,
            time_every=time_every,
            progress=moved,
        )
    judged = Assessment(sweep.measurements, decided, level, rate)
    report = _report(sweep, judged)
    _write(sweep, judged, report)
    if as_json:
        say_json(report)
    else:
        _print(judged, output)


def _decided(tried: Sequence[Setting], base: RunSpec, model: Model) -> list[Setting]:
    """The same with what the model recommends decided; what has no effect is said."""
    runs = settled(model, *(replace(base, settings=one.settings) for one in tried))
    say_idle_settings(*(run.settings for run in runs))
    return [replace(one, settings=run.settings) for one, run in zip(tried, runs, strict=True)]


def _say_notes(notes: Sequence[str]) -> None:
    for text in notes:
        note(text)


def _say_too_few(needed: int, prompts: int, bound: str) -> None:
    if needed > prompts:
        note(f"a bound of {bound} takes at least {needed} prompts")


def _report(sweep: Sweep, judged: Assessment) -> dict[str, object]:
    return {
        "schema": 1,
        "prompts": len(sweep.questions),
        "level": judged.level,
        "settings": [asdict(summary) for summary in judged.summaries],
        "recommendation": judged.recommendation.as_json(),
        "raised": list(sweep.raised),
    }


def _write(sweep: Sweep, judged: Assessment, report: dict[str, object]) -> None:
    """The files of the folder; errors of policies are said."""
    from skipstone.sweep.chart import pareto_chart, save_html, save_png

    _say_notes(sweep.raised)
    chart = pareto_chart(judged.summaries, judged.recommendation)
    text = json_text(report) + "\n"
    sweep.store.save("summary.json", lambda path: path.write_text(text, encoding="utf-8"))
    sweep.store.save("pareto.html", lambda path: save_html(chart, path))
    sweep.store.save("pareto.png", lambda path: save_png(chart, path))


def _print(judged: Assessment, output: Path) -> None:
    """The report for people."""
    from skipstone.sweep.chart import grid_keys

    summaries, found = judged.summaries, judged.recommendation
    columns = (
        "setting",
        "right",
        "differ",
        "95 %",
        "tokens",
        "parts at",
        "forwards",
        "skip",
        "FLOPs",
        "s",
        "tokens/s",
        "faster",
    )
    say(f"{summaries[0].prompts} prompts; baseline: {summaries[0].spec or 'defaults'}")
    say(f"setting: {', '.join(grid_keys(summaries))}")
    say_table(columns, [_cells(summary) for summary in summaries])
    say(
        "parts at: median forward of the first different decision; FLOPs: of the baseline's; "
        "s, tokens/s, faster: medians over prompts, on a machine that may be busy"
    )
    if found.setting is None:
        say("recommended: ", ("none", "doubt"), f": {found.reason}")
    else:
        say("recommended: ", (found.setting, "good"), f": {found.reason}")
        say(f"run spec: {found.spec or ''}")
    aside((f"[written: {output}]", "label"))


def _cells(s: Summary) -> Sequence[object]:
    """A row of the table."""
    rate = s.disagreement
    return (
        " ".join(pair.partition("=")[2] or pair for pair in s.setting.split()),
        f"{s.right}/{s.known}" if s.known else "-",
        f"{s.differing}",
        f"{rate.low:.1%} to {rate.high:.1%}",
        f"{s.same_tokens.value:.1%}",
        "-" if s.first_forward is None else f"{s.first_forward:g}",
        f"{s.forwards:.1f}",
        f"{s.skip_share:.0%}",
        f"{1 - s.flops_saved:.0%}",
        f"{s.seconds:.2f}",
        f"{s.tokens_per_second:.1f}",
        f"{s.speedup.value:.2f}",
    )
