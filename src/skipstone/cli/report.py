"""``skipstone report``: two or more traces of one prompt as one HTML page."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skipstone.cli.diagnose import explained, parse_seconds
from skipstone.cli.diff import measured_floor
from skipstone.cli.numbers import whole
from skipstone.cli.terminal import aside
from skipstone.diff.compare import first_apart
from skipstone.errors import ConfigError
from skipstone.outputs import check_output
from skipstone.record import open_trace
from skipstone.report.report import check_drawing, write_report
from skipstone.report.study import closest_look
from skipstone.report.words import words

if TYPE_CHECKING:
    from skipstone.cli.specs import SpecPair


@click.command("report")
@click.argument("traces", metavar="A B [C ...]", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    required=True,
    help="The page to write, such as report.html; an older one is replaced.",
)
@click.option("--lang", metavar="en|zh", default="en", help="Language at first.  [default: en]")
@click.option(
    "--sample",
    metavar="N",
    type=whole,
    help="Request of a batch.  [default: the first in which A and B part]",
)
@click.option("--model", help="Where the model is, if not where the traces say.")
@click.option(
    "--time-limit",
    metavar="60s",
    help="Time for experiments; 0: none.  [default: a number of them]",
)
@click.option(
    "--floor",
    type=click.Choice(["measure", "estimate"]),
    help="Noise: run A again, or guess from its dtype.  [default: measure, if that is possible]",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Print tracebacks.")
def report(
    traces: tuple[str, ...],
    output: Path,
    lang: str,
    sample: int | None,
    model: str | None,
    time_limit: str | None,
    floor: str | None,
) -> int:
    """Write one HTML page about traces of one prompt: what differs, where, and why.

    A is the baseline. Of more than two traces, every one is held against A and against the one
    before it, and the first that parts from A is looked at closely. The page opens offline.
    """
    from skipstone.cli.specs import traced_pair

    check_drawing()
    words(lang)
    check_output(output)
    if len(traces) < 2:
        raise ConfigError(f"a report needs two or more traces, found {len(traces)}")
    with ExitStack() as files:
        opened = [files.enter_context(open_trace(Path(path))) for path in traces]
        if sample is None:
            sample = first_apart(opened[0], opened[1])
        chosen = closest_look(opened, sample)
        pair = traced_pair(opened[0], opened[chosen], sample, model)
        seconds = 0.0 if time_limit == "0" else parse_seconds(time_limit)
        noise = None
        if floor != "estimate":
            noise = measured_floor(opened[0], opened[chosen], sample, floor, pair.reference)
        write_report(
            opened,
            output,
            names=traces,
            sample=sample,
            floor=noise,
            diagnosis=explained(pair, seconds) if seconds else None,
            token=None if pair.reference is None else pair.reference.text.token,
            language=lang,
        )
    say_written(output)
    return 0


def report_pair(pair: SpecPair, path: Path, names: tuple[str, str]) -> None:
    """Write a page about two runs that were decoded just now."""
    check_drawing()
    assert pair.reference is not None
    write_report(
        [pair.a.trace, pair.b.trace],
        path,
        names=names,
        diagnosis=explained(pair),
        token=pair.reference.text.token,
    )
    say_written(path)


def say_written(path: Path) -> None:
    """Where the page is, and how large."""
    size = path.stat().st_size / 1e6
    aside((f"[report: {path}, {size:.1f} MB]", "label"))
