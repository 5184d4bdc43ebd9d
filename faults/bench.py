"""The fault bench: every fault and every control, diagnosed twice and scored.

    python -m faults.bench [--only NAME ...] [--jobs N] [--quick] [-o out.json]

Once B is at hand and can be run again, once there is nothing of it but its trace.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import click
import torch

from faults.cases import SPECIMENS
from faults.controls import controls
from faults.specimen import Specimen
from faults.table import insert, markdown, passed, write_json
from faults.trial import Outcome, Trial, run

BENCH: tuple[Specimen, ...] = (*SPECIMENS, *controls())


class Key(NamedTuple):
    """A trial by number: faults are functions, and do not travel between processes."""

    specimen: int
    prompt: int
    pair: int
    alone: bool

    def trial(self) -> Trial:
        """The trial itself."""
        specimen = BENCH[self.specimen]
        prompt, pair = specimen.prompts[self.prompt], specimen.pairs[self.pair]
        return Trial(specimen, prompt, pair, self.alone)


def keys(only: Sequence[str], *, quick: bool) -> list[Key]:
    """Every trial, or those of some specimens; when quick, one prompt and one pair each."""
    return [
        Key(i, prompt, pair, alone)
        for i, specimen in enumerate(BENCH)
        if not only or any(part in specimen.name for part in only)
        for prompt in range(1 if quick else len(specimen.prompts))
        for pair in range(1 if quick else len(specimen.pairs))
        for alone in (False, True)
    ]


def outcomes(wanted: Sequence[Key], jobs: int) -> Iterator[Outcome]:
    """Run trials, in this process or in several."""
    if jobs == 1:
        _one_thread()
        yield from map(_run, wanted)
        return
    # Torch does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_one_thread) as pool:
        # Both modes of a case are neighbours, and share what was recorded.
        yield from pool.map(_run, wanted, chunksize=2)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _run(key: Key) -> Outcome:
    return run(key.trial())


@click.command()
@click.option("--only", multiple=True, help="Specimens whose name contains this; repeatable.")
@click.option("--jobs", default=1, show_default=True, help="Processes.")
@click.option("--quick", is_flag=True, help="One prompt and one pair of settings each.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write all outcomes as JSON.")
@click.option("--docs", type=click.Path(path_type=Path), help="Put the table into this page.")
def main(
    only: tuple[str, ...], jobs: int, quick: bool, out: Path | None, docs: Path | None
) -> None:
    """Diagnose every fault and every control, and score what is said."""
    wanted, done = keys(only, quick=quick), list[Outcome]()
    for outcome in outcomes(wanted, jobs):
        done.append(outcome)
        click.echo(f"[{len(done)}/{len(wanted)}] {_line(outcome)}", err=True)
    click.echo(markdown(done))
    if out is not None:
        write_json(out, done)
    if docs is not None:
        insert(docs, markdown(done))
    raise SystemExit(0 if passed(done) else 1)


def _line(outcome: Outcome) -> str:
    """One trial for whoever waits."""
    mode = "trace" if outcome.alone else "live"
    if not (outcome.acted or outcome.control):
        return f"{outcome.name} ({mode}): does not act on {outcome.prompt!r}"
    word = "ok" if outcome.cause_right else "WRONG"
    if outcome.cause_right and not outcome.control:
        word = word if outcome.step_right else "WRONG STEP"
        word = word if outcome.place_right else "WRONG PLACE"
    return f"{word}: {outcome.name} ({mode}): {outcome.verdict}, {outcome.where}"


if __name__ == "__main__":
    main()
