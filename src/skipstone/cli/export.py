"""``skipstone export``: a trace for other programs. Runs without torch."""

from __future__ import annotations

from pathlib import Path

import click

from skipstone.cli.terminal import aside, note
from skipstone.record import open_trace
from skipstone.record.export import to_parquet, to_perfetto

_WRITERS = {"parquet": to_parquet, "perfetto": to_perfetto}


@click.command()
@click.argument("trace", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    type=click.Choice(sorted(_WRITERS)),
    required=True,
    help="parquet: a folder of tables. perfetto: a timeline for ui.perfetto.dev.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The new folder or file.",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Print tracebacks.")
def export(trace: Path, target: str, output: Path) -> None:
    """Write TRACE in a form that other programs read."""
    with open_trace(trace) as opened:
        _WRITERS[target](opened, output)
        for sample in range(len(opened.headers)):
            for hole in opened.holes(sample):
                note(f"of sample {sample}, {hole}, here as in the trace")
    aside((f"[written: {output}]", "label"))
