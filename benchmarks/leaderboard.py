"""How many answers an hour a leaderboard gets by decoding the settings of a prompt together.

    python -m benchmarks.leaderboard --length 16 --length 96 -o out.json

One side decodes one setting after the other, one prompt after the other, as ``--time-every 1`` does
and as every sweep did before it decoded settings together. The other decodes all settings of
several prompts at once, as a leaderboard does with all prompts that are not timed. Both have the
settings and prompts of a leaderboard, the same worker processes and a thread each; they take
turns, and which goes first alternates. All that is measured of an answer but its time must be the
same on both sides. Beside the seconds stand those of the processors, which say the same on a
machine that others use too.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import click
import torch

from skipstone import Model, Settings, load
from skipstone.cli.prompts import read_questions
from skipstone.leaderboard.protocol import protocol, sampled, short
from skipstone.outputs import write_whole
from skipstone.sweep.measure import Measured, Measurement
from skipstone.sweep.units import DecodeUnit, WorkerSetup, decode_units
from skipstone.sweep.worker import run_in_worker

_NONE_TIMED = 1 << 30


@dataclass(frozen=True)
class Gain:
    """Together against one after the other, at one length."""

    new_tokens: int
    settings: int
    """The exact run among them."""
    families: tuple[str, ...]
    """Of the prompts, in order."""
    answers: int
    alone_s: tuple[float, ...]
    """Of each repeat; so are the next three."""
    together_s: tuple[float, ...]
    alone_cpu_s: tuple[float, ...]
    together_cpu_s: tuple[float, ...]
    alone_answers_per_hour: float
    """Median of the repeats."""
    together_answers_per_hour: float
    times: float
    """Median over the pairs of alone by together."""
    least: float
    most: float
    cpu_times: float
    """The same of processor time."""


@dataclass(frozen=True)
class Pass:
    """One side, once."""

    seconds: float
    cpu_seconds: float
    rows: list[Measurement]
    """By prompt and setting, without their times."""


def run_unit(plan: WorkerSetup, unit: DecodeUnit) -> tuple[Measured, float]:
    """What a worker finds in a unit, and the processor's seconds."""
    started = time.process_time()
    found = run_in_worker(plan, unit, 1)
    assert isinstance(found, Measured)
    return found, time.process_time() - started


def timed(pool: ProcessPoolExecutor, plan: WorkerSetup, units: Sequence[DecodeUnit]) -> Pass:
    """Run units in workers that are warm."""
    started = time.perf_counter()
    found = list(pool.map(partial(run_unit, plan), units))
    seconds = time.perf_counter() - started
    rows = [
        replace(m, seconds=0.0, tokens_per_second=0.0, timed=False)
        for measured, _ in found
        for m in measured.measurements
    ]
    return Pass(seconds, sum(cpu for _, cpu in found), sorted(rows, key=lambda m: m.prompt))


def measure(
    model: Model, length: int, prompts: int, workers: int, repeats: int, *, knobs: bool
) -> Gain:
    """Both sides in turn, at one length."""
    run = protocol(model, Settings(gen_length=length), knobs=knobs)
    dtype = str(model.network.dtype).removeprefix("torch.")
    plan = WorkerSetup(model.name, "cpu", dtype, workers, run.baseline, run.settings)
    questions = read_questions(Path(model.name), "--prompts")
    chosen = sampled(short(questions, model, length), None)[0][:prompts]
    texts = [(place, question.prompt) for place, question in enumerate(chosen)]
    units = (
        decode_units(texts, 1, workers),
        [replace(unit, timed=False) for unit in decode_units(texts, _NONE_TIMED, workers)],
    )
    passes: tuple[list[Pass], list[Pass]] = ([], [])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        # Each worker loads its model and decodes once.
        timed(pool, plan, [DecodeUnit(())] * (4 * workers))
        for i in range(repeats):
            for which in (1, 0) if i % 2 else (0, 1):
                passes[which].append(timed(pool, plan, units[which]))
    alone, together = passes
    if any(one.rows != alone[0].rows for one in (*alone, *together)):
        raise click.ClickException(f"the two sides differ at {length} new tokens")
    times = [a.seconds / b.seconds for a, b in zip(alone, together, strict=True)]
    answers = len(texts) * len(plan.all)
    return Gain(
        new_tokens=length,
        settings=len(plan.all),
        families=tuple(question.family for question in chosen),
        answers=answers,
        alone_s=tuple(one.seconds for one in alone),
        together_s=tuple(one.seconds for one in together),
        alone_cpu_s=tuple(one.cpu_seconds for one in alone),
        together_cpu_s=tuple(one.cpu_seconds for one in together),
        alone_answers_per_hour=3600 * answers / statistics.median(one.seconds for one in alone),
        together_answers_per_hour=3600
        * answers
        / statistics.median(one.seconds for one in together),
        times=statistics.median(times),
        least=min(times),
        most=max(times),
        cpu_times=statistics.median(
            a.cpu_seconds / b.cpu_seconds for a, b in zip(alone, together, strict=True)
        ),
    )


@click.command()
@click.option("--length", "lengths", multiple=True, type=int, default=(16, 64, 96))
@click.option("--prompts", default=8, show_default=True, help="One of a family, then the next.")
@click.option("--workers", default=2, show_default=True, help="Processes of one thread each.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--published", is_flag=True, help="Published values alone, no knobs.")
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(
    lengths: tuple[int, ...],
    prompts: int,
    workers: int,
    repeats: int,
    published: bool,
    out: Path | None,
) -> None:
    """Measure at each length, print, and write if asked."""
    model, before = load("pebble", device="cpu"), os.getloadavg()[0]
    gains = list[Gain]()
    for length in lengths:
        g = measure(model, length, prompts, workers, repeats, knobs=not published)
        gains.append(g)
        print(
            f"{length} tokens, {g.settings} settings: answers an hour "
            f"{g.alone_answers_per_hour:.0f} -> {g.together_answers_per_hour:.0f}  {g.times:.2f} "
            f"times ({g.least:.2f} to {g.most:.2f}); processor time {g.cpu_times:.2f} times",
            flush=True,
        )
    if out is not None:
        each = " ".join(f"--length {length}" for length in lengths)
        only = " --published" if published else ""
        facts = {
            "command": f"python -m benchmarks.leaderboard {each} --prompts {prompts} "
            f"--workers {workers} --repeats {repeats}{only}",
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "dtype": str(model.network.dtype).removeprefix("torch."),
            "load_average": [before, os.getloadavg()[0]],
            "torch": torch.__version__,
            "gains": [asdict(g) for g in gains],
        }
        write_whole(out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
