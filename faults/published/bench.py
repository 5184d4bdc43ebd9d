"""Runs all trials, in several processes if asked."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import torch

from faults.published import heldout, planted, table, trial, unseen
from faults.published.bases import BASES
from faults.published.trial import Outcome
from skipstone.errors import ConfigError
from skipstone.files import one_line

Task = tuple[str, str, dict[str, Path], tuple[tuple[int, int], ...]]
"""A set of faults, a code base, all checkouts, and trials as numbers of fault and job: functions
cannot be sent."""

SETS = {"planted": planted.EVERY, "heldout": heldout.EVERY, "unseen": unseen.EVERY}
"""The faults that rules were written with, and those that were chosen without knowing them."""

_TRIALS_OF_A_TASK = 12
_NEEDED = ("transformers", "einops")


def outcomes(
    checkouts: Mapping[str, Path | None], only: Sequence[str], jobs: int, chosen: str = "planted"
) -> list[Outcome]:
    """Every fault of a set, in the code bases that are here, at each of its jobs.

    Raises:
        ConfigError: no checkout is here, or what their code imports is missing.
    """
    here = {name: path.resolve() for name, path in checkouts.items() if path is not None}
    if not here:
        raise ConfigError(f"no checkout was given; pass one of --{', --'.join(checkouts)}")
    if missing := [package for package in _NEEDED if find_spec(package) is None]:
        raise ConfigError(
            f"published code needs {' and '.join(missing)}; run: pip install {' '.join(missing)}"
        )
    bases = list[str]()
    for base in BASES.values():
        absent = [name for name in base.needs if name not in here]
        if absent:
            _say(f"skipped: {base.name}, for --{' and --'.join(absent)} was not given")
        else:
            bases.append(base.name)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        tasks = _tasks(chosen, bases, here, only)
        return [outcome for done in pool.map(_work, tasks) for outcome in done]


def _tasks(
    chosen: str, bases: Sequence[str], here: dict[str, Path], only: Sequence[str]
) -> Iterator[Task]:
    for base in bases:
        mine = [
            (number, job)
            for number, fault in enumerate(SETS[chosen])
            for job in range(len(fault.jobs))
            if fault.base == base and (not only or any(part in fault.name for part in only))
        ]
        for at in range(0, len(mine), _TRIALS_OF_A_TASK):
            yield chosen, base, here, tuple(mine[at : at + _TRIALS_OF_A_TASK])


def _work(task: Task) -> list[Outcome]:
    chosen, name, here, numbers = task
    torch.set_num_threads(1)
    # Their code compiles on its first call, which takes minutes on a CPU and is not in question.
    torch.compiler.set_stance("force_eager")
    base, faults, done = BASES[name], SETS[chosen], list[Outcome]()
    try:
        modules = base.load(here)
    except Exception as error:
        # Whatever their code raises, mostly for another version of what it imports.
        _say(f"skipped: {name} cannot be imported here ({one_line(error)})")
        return []
    for number, job in numbers:
        new = trial.run(faults[number], faults[number].jobs[job], base, modules)
        _say("\n".join(map(table.line, new)))
        done += new
    return done


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def commit() -> str:
    """The commit of this checkout, for the head of a table."""
    words = ("git", "-C", str(Path(__file__).parent), "log", "-1", "--format=%h %s")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "an unknown commit"
