"""The fault bench: every fault and every control, diagnosed twice and scored.

    python -m faults.bench [--only NAME ...] [--jobs N] [--quick] [-o out.json]

Once B is at hand and can be run again, once there is nothing of it but its trace. Faults in other
people's code are diagnosed with a model of ours at hand and without.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import torch

from faults import foreign
from faults.cases import SPECIMENS
from faults.controls import controls
from faults.foreign import Encounter
from faults.foreign_cases import STRANGERS
from faults.foreign_loops import FAULTY_LOOPS
from faults.table import insert, markdown, passed, read_json, write_json
from faults.trial import Outcome, Trial, run

AnyTrial = Trial | Encounter

EVERY: tuple[AnyTrial, ...] = (
    *(
        Trial(specimen, prompt, pair, alone)
        for specimen in (*SPECIMENS, *controls())
        for prompt in specimen.prompts
        for pair in specimen.pairs
        for alone in (False, True)
    ),
    *foreign.encounters((*STRANGERS, *FAULTY_LOOPS)),
)
"""Trials travel between processes by number: faults are functions, and cannot be sent."""


def numbers(only: Sequence[str], *, quick: bool) -> list[int]:
    """Of every trial, or of those of some specimens; when quick, one prompt and one pair each."""
    return [
        i
        for i, trial in enumerate(EVERY)
        if (not only or any(part in trial.name for part in only)) and (trial.first or not quick)
    ]


def outcomes(wanted: Sequence[int], jobs: int) -> Iterator[Outcome]:
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


def _run(number: int) -> Outcome:
    trial = EVERY[number]
    return run(trial) if isinstance(trial, Trial) else foreign.run(trial)


@click.command()
@click.option("--only", multiple=True, help="Specimens whose name contains this; repeatable.")
@click.option("--jobs", default=1, show_default=True, help="Processes.")
@click.option("--quick", is_flag=True, help="One prompt and one pair of settings each.")
@click.option("--part", nargs=2, type=int, default=(1, 1), help="The K-th of N parts: K N.")
@click.option(
    "--add", multiple=True, type=click.Path(path_type=Path), help="Other parts, as JSON; counted in"
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write all outcomes as JSON.")
@click.option("--docs", type=click.Path(path_type=Path), help="Put the table into this page.")
def main(
    only: tuple[str, ...],
    jobs: int,
    quick: bool,
    part: tuple[int, int],
    add: tuple[Path, ...],
    out: Path | None,
    docs: Path | None,
) -> None:
    """Diagnose every fault and every control, and score what is said."""
    wanted = part_of(numbers(only, quick=quick), *part)
    done = list[Outcome]()
    for outcome in outcomes(wanted, jobs):
        done.append(outcome)
        click.echo(f"[{len(done)}/{len(wanted)}] {_line(outcome)}", err=True)
    done += [outcome for path in add for outcome in read_json(path)]
    click.echo(markdown(done))
    if out is not None:
        write_json(out, done)
    if docs is not None:
        insert(docs, markdown(done))
    raise SystemExit(0 if passed(done) else 1)


def part_of(wanted: list[int], which: int, parts: int) -> list[int]:
    """The K-th of N parts, in pairs of neighbours; none of it for K = 0."""
    return [number for i, number in enumerate(wanted) if i // 2 % parts == which - 1]


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
