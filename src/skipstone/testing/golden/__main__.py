"""Replays recorded truth of published code, and says which cases differ, and where first.

    python -m skipstone.testing.golden DIR...

Each folder holds a checkpoint with its ``cases.json``, or the cases of one policy. The exit code is
0 if every case gives the recorded tokens in no more forwards, and 1 if one does not, or cannot be
expressed in settings of the engine.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import click

from skipstone.errors import SkipstoneError
from skipstone.models.load import load
from skipstone.quoting import one_line
from skipstone.testing.golden.case import Inexpressible
from skipstone.testing.golden.folder import GoldenFolder, read
from skipstone.testing.golden.replay import miss


@click.command(help=__doc__)
@click.argument(
    "folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
def main(folders: tuple[Path, ...]) -> None:
    """Replay folders."""
    try:
        wrong = sum(_replay(recorded) for folder in folders for recorded in read(folder))
    except SkipstoneError as error:
        raise click.ClickException(one_line(error)) from None
    sys.exit(1 if wrong else 0)


def _replay(recorded: GoldenFolder) -> int:
    """Print the misses of a checkpoint and counts by kind; returns how many cases missed."""
    model = load(recorded.checkpoint, device="cpu", dtype="float32")
    right, all_of = Counter[str](), Counter[str]()
    for case in recorded.cases:
        all_of[case.kind] += 1
        if isinstance(case, Inexpressible):
            click.echo(f"  {case.name}: cannot be expressed: {case.reason}")
        elif said := miss(model, case):
            click.echo(f"  {case.name} ({case.kind}): {said}")
        else:
            right[case.kind] += 1
    for line in _counts(recorded.checkpoint.name, right, all_of):
        click.echo(line)
    return all_of.total() - right.total()


def _counts(name: str, right: Counter[str], all_of: Counter[str]) -> Iterable[str]:
    for kind in sorted(all_of):
        yield f"{name}: {kind}: {right[kind]} of {all_of[kind]}"
    yield f"{name}: {right.total()} of {all_of.total()}"


if __name__ == "__main__":
    main()
