"""``skipstone leaderboard``: every shortcut on the same prompts, and what each of them changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skipstone.cli.idle import say_idle
from skipstone.cli.numbers import check_some, whole
from skipstone.cli.options import given, run_options, run_spec
from skipstone.cli.progress import progress
from skipstone.cli.prompts import executor_option, judge_option, read_questions, time_every_option
from skipstone.cli.tables import say_table
from skipstone.cli.terminal import aside, note, say, say_json
from skipstone.errors import ConfigError
from skipstone.quoting import cut, shown

if TYPE_CHECKING:
    from skipstone.cli.options import RunSpec
    from skipstone.diff.agreement import Question
    from skipstone.leaderboard.board import Leaderboard
    from skipstone.leaderboard.gpu import GpuTimes
    from skipstone.leaderboard.protocol import Protocol
    from skipstone.models.load import Model
    from skipstone.sweep.run import Sweep

_QUICK = {"gen_length": "16"}
_QUICK_FAMILIES = 2
_MOST_REPORTS = 200


@click.command("leaderboard")
@click.option(
    "--prompts",
    "path",
    type=click.Path(path_type=Path),
    default=Path("pebble"),
    help='pebble, or a file as of sweep; "family" in a line gives its part of the table.  '
    "[default: pebble]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the table; with the same folder, a stopped run goes on.",
)
@click.option("--per-family", type=whole, metavar="N", help="Prompts of a family.  [default: all]")
@click.option(
    "--limit", type=whole, metavar="N", help="Only the first N, families by turns; more later."
)
@click.option(
    "--quick",
    is_flag=True,
    help="Published values alone, a prompt of two families, 16 new tokens, no causes.",
)
@click.option(
    "--time-limit",
    metavar="60s",
    help="Time for the experiments on a changed answer; 0: none. With more of it, the same folder "
    "is gone on with.  [default: a number of them]",
)
@click.option(
    "--reports",
    "pages",
    type=whole,
    metavar="N",
    help="Most report pages, one for each setting and family that changed an answer; 0: none.  "
    "[default: 200, and 500 MB]",
)
@click.option(
    "--gpu-times",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Times of settings on a GPU, as benchmarks/policy_times.py writes them: one more column.",
)
@judge_option
@executor_option
@time_every_option
@run_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def leaderboard(
    path: Path,
    output: Path,
    per_family: int | None,
    limit: int | None,
    time_limit: str | None,
    pages: int | None,
    gpu_times: Path | None,
    rule: str,
    who: str,
    time_every: int,
    *,
    quick: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Compare every policy: answers, work, time, and why answers changed.

    Each policy is run at its published default and along its knob, alone and with the dual cache,
    and held against the exact run: no cache, no skip, one token a step. The folder gets
    board.html (a page), reports/ (what a click on a point opens), board.parquet, results.parquet (a
    row for each answer), and board.md.
    """
    base = _base(given(options), quick=quick)
    check_some("--per-family", per_family)
    check_some("--limit", limit)
    seconds = _seconds(time_limit, quick=quick)
    pages, times = _pages(pages, explained=seconds > 0), _times(gpu_times)
    from skipstone.sweep.executors import parse_executor
    from skipstone.sweep.run import run_sweep
    from skipstone.sweep.store import check_parquet, make_folder

    check_parquet()
    executor = parse_executor(who)
    questions = read_questions(path, "--prompts", rule)
    model = base.load()
    questions, wanted = _chosen(questions, model, base, per_family, limit, quick=quick)
    make_folder(output)  # before each policy is tried, which decodes
    run = _protocol(model, base, quick=quick)
    with progress() as moved:
        sweep = run_sweep(
            model,
            questions,
            run.settings,
            output,
            baseline=run.baseline,
            limit=wanted,
            executor=executor,
            time_every=time_every,
            explain=seconds,
            reports=pages,
            progress=moved,
        )
    found = _found(sweep, run, times)
    _write(sweep, found, _about(model, base, wanted, quick=quick), model)
    if as_json:
        _print_json(found, wanted)
    else:
        _print(found, output)


def _times(path: Path | None) -> GpuTimes | None:
    """Times on a GPU, read before hours of work."""
    from skipstone.leaderboard.gpu import read_gpu_times

    return None if path is None else read_gpu_times(path)


def _found(sweep: Sweep, run: Protocol, times: GpuTimes | None) -> Leaderboard:
    """The table; errors of policies are said, and times that belong to no line of it."""
    from skipstone.leaderboard.board import board

    for text in sweep.raised:
        note(text)
    _say_not_finished(sweep)
    found = board(sweep, run)
    if times is None:
        return found
    found = found.with_gpu(times)
    for name, reason in times.failed.items():
        note(f"--gpu-times: {shown(name)} could not be timed: {cut(reason)}")
    for name in found.without_line:
        note(f"--gpu-times: no line is called {shown(name)}; its time is left out")
    return found


def _say_not_finished(sweep: Sweep) -> None:
    """How many causes more time may find."""
    from skipstone.sweep.measure import NOT_FINISHED

    left = [m for m in sweep.measurements if m.cause == NOT_FINISHED and m.asks_why(math.inf)]
    if left:
        note(
            f"changed answers that are not-finished: {len(left)}; the same command with a larger "
            f"--time-limit, or none, looks for their causes again"
        )


def _write(sweep: Sweep, found: Leaderboard, about: str, model: Model) -> None:
    """The table in all of its forms; says what has no report if others have."""
    from skipstone.leaderboard.columns import markdown, write_parquet
    from skipstone.leaderboard.page import render, reports_said

    if sweep.reports and (said := reports_said(found, sweep)):
        note(said)
    text, page = markdown(found, about), render(found, sweep, about, model)
    sweep.store.save("board.parquet", lambda to: write_parquet(found, to))
    sweep.store.save("board.html", lambda to: to.write_text(page, encoding="utf-8"))
    sweep.store.save("board.md", lambda to: to.write_text(text, encoding="utf-8"))


def _base(texts: dict[str, str], *, quick: bool) -> RunSpec:
    """What is the same for all settings."""
    for name in ("cache", "unmask", "skip"):
        if name in texts:
            raise ConfigError(
                f"--{name} cannot be given: a leaderboard runs every policy; leave it out, or use "
                f"skipstone sweep"
            )
    return run_spec((_QUICK if quick else {}) | texts)


def _protocol(model: Model, base: RunSpec, *, quick: bool) -> Protocol:
    """What is run; what is left out is said."""
    from skipstone.leaderboard.protocol import protocol

    run = protocol(model, base.settings, knobs=not quick)
    for text in run.left_out:
        note(f"left out: {text}")
    return run


def _chosen(
    questions: Sequence[Question],
    model: Model,
    base: RunSpec,
    per_family: int | None,
    limit: int | None,
    *,
    quick: bool,
) -> tuple[list[Question], int]:
    """The prompts in their order, none of which is wrong, and how many of them are run."""
    from skipstone.leaderboard.protocol import sampled, short
    from skipstone.sweep.run import check_prompts

    gen_length, each = base.settings.gen_length, per_family
    if quick:
        questions, each = short(questions, model, gen_length), per_family or 1
    ordered, most = sampled(questions, each)
    if quick and not per_family:
        most = min(most, _QUICK_FAMILIES)
    wanted = min(most, limit or most)
    check_prompts(model, ordered, gen_length, wanted)
    return ordered, wanted


def _seconds(time_limit: str | None, *, quick: bool) -> float:
    """For the experiments on an answer."""
    if time_limit is None:
        return 0.0 if quick else math.inf
    if time_limit == "0":
        return 0.0
    # It imports the diagnosis, which a list of options does not need.
    from skipstone.cli.diagnose import parse_seconds

    return parse_seconds(time_limit)


def _pages(asked: int | None, *, explained: bool) -> int:
    """The most report pages; none where nothing is explained, or nothing can draw them."""
    from skipstone.report.report import check_drawing

    if asked is not None and asked < 0:
        raise ConfigError(f"--reports is {asked}, must be at least 0")
    if asked and not explained:
        say_idle(f"--reports {asked} has no effect without causes; give --time-limit 20s")
    if asked == 0 or not explained:
        return 0
    try:
        check_drawing()
    except ConfigError as error:
        if asked:
            raise
        note(f"no reports: {error}")
        return 0
    return asked or _MOST_REPORTS


def _about(model: Model, base: RunSpec, prompts: int, *, quick: bool) -> str:
    """What was run, in a paragraph."""
    import platform

    network = model.network
    dtype = str(network.dtype).removeprefix("torch.")
    return (
        f"{'Quick form: a sample that proves little. ' if quick else ''}"
        f"{prompts} prompts, {base.settings.gen_length} new tokens, {dtype} on "
        f"{network.device.type} ({platform.machine()}). The first line is the exact run: no cache, "
        f"no skip, one token a step. Changed: against that run. FLOPs: of its operations. s, "
        f"faster: medians over prompts, on a machine that may be busy."
    )


def _print_json(found: Leaderboard, prompts: int) -> None:
    from skipstone.leaderboard.columns import rows

    left_out = list(found.protocol.left_out)
    errors = {"raised": list(found.raised), "left_out": left_out}
    say_json({"schema": 1, "prompts": prompts, "lines": rows(found), **errors})


def _print(found: Leaderboard, output: Path) -> None:
    """The table over all prompts."""
    from skipstone.leaderboard.board import ALL
    from skipstone.leaderboard.columns import cells, headings

    lines = found.of(ALL)
    say(f"{lines[0].summary.prompts} prompts; the first line is the exact run")
    say_table(headings(found), [cells(line, found) for line in lines])
    aside((f"[written: {output}]", "label"))
