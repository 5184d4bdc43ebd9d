"""What a server does under load: how long answers take at which rate, and which rate is too high.

    python -m benchmarks.serve pebble -o out.json       on a CPU, over HTTP
    python -m benchmarks.serve llada-8b -o out.json     on a GPU, in process, random weights

Requests arrive at random (Poisson), as long as those of ShareGPT, and are sent at their time
whatever has come back until then; times count from the arrival. At saturation all arrive at once:
what is answered then is the highest rate at which nothing piles up. It is held against
``generate_batch`` with the same requests, in turn. At a share of it, the slowest in a hundred are
held against a server that has nothing else to do: against the median of all, and each against what
a request of its size takes there.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.load.arrivals import Ask, any_ids, arrivals, asks, cut_from
from benchmarks.load.sides import Answered, InProcess, OverHttp, Side, served
from skipstone import Engine, Fixed, Model, Settings, load
from skipstone.bench.random_model import random_model
from skipstone.cli.prompts import read_questions
from skipstone.models.shapes import LLADA_8B
from skipstone.outputs import write_whole

BASE = Settings(unmask=Fixed(), gen_length=128, steps=32, eos_stop=False)
SHARES = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2)


@dataclass(frozen=True)
class Alone:
    """Requests of which each finds nobody."""

    requests: int
    median_s: float
    p99_s: float
    first_median_s: float
    seconds_a_token: float
    """Least squares: a request takes this for each token of its answer, and a constant."""
    constant_s: float

    def of(self, ask: Ask) -> float:
        """Seconds that a request of this size takes."""
        return self.constant_s + self.seconds_a_token * ask.tokens


@dataclass(frozen=True)
class Saturation:
    """All requests at once."""

    requests: int
    requests_per_s: float
    """Median of the repeats."""
    low: float
    high: float
    tokens_per_s: float
    batch_requests_per_s: float
    """Of ``generate_batch``."""
    share_of_batch: float
    """Median over the pairs."""
    share_low: float
    share_high: float
    cpu_over_batch: float
    """CPU seconds of the process that answers over those of ``generate_batch``."""


@dataclass(frozen=True)
class Rate:
    """Requests that arrive at one rate."""

    share: float
    """Of saturation."""
    requests_per_s: float
    requests: int
    seed: int
    first_median_s: float
    first_p99_s: float
    median_s: float
    p99_s: float
    p99_over_alone: float
    """The slowest in a hundred over the median of requests that find nobody."""
    slowdown_p99: float
    """The slowest in a hundred, each over what a request of its size takes alone."""
    tokens_per_s: float
    piled_up: int
    """By how many more are in the server when the last one arrives than half way through."""
    sent_late_ms: float
    """The slowest in a hundred: what the load generator itself adds."""


def alone(side: Side, given: Sequence[Ask]) -> Alone:
    """Ask one after the other."""
    took = [side.ask([ask], [0.0])[0] for ask in given]
    seconds = [one.seconds - one.lag for one in took]
    slope, constant = np.polyfit([ask.tokens for ask in given], seconds, 1)
    return Alone(
        requests=len(given),
        median_s=statistics.median(seconds),
        p99_s=float(np.quantile(seconds, 0.99)),
        first_median_s=statistics.median(one.first - one.lag for one in took),
        seconds_a_token=float(slope),
        constant_s=float(constant),
    )


def saturation(
    side: Side, engine: Engine, slots: int, given: Sequence[Ask], repeats: int
) -> Saturation:
    """All at once, and the same by ``generate_batch``, in turn."""
    settings, prompts = [ask.settings(engine.settings) for ask in given], [a.prompt for a in given]
    tokens, ours, batch = sum(ask.tokens for ask in given), list[float](), list[float]()
    cpu = list[float](), list[float]()
    for turn in range(repeats):
        for which in (0, 1) if turn % 2 else (1, 0):
            counts = time.process_time if which else side.cpu_seconds
            started, before = time.perf_counter(), counts()
            if which:
                engine.generate_batch(prompts, batch_size=slots, settings=settings)
                batch.append(len(given) / (time.perf_counter() - started))
            else:
                took = side.ask(given, [0.0] * len(given))
                ours.append(len(given) / max(one.done for one in took))
            cpu[which].append(counts() - before)
    shares = [own / other for own, other in zip(ours, batch, strict=True)]
    return Saturation(
        requests=len(given),
        requests_per_s=statistics.median(ours),
        low=min(ours),
        high=max(ours),
        tokens_per_s=statistics.median(ours) * tokens / len(given),
        batch_requests_per_s=statistics.median(batch),
        share_of_batch=statistics.median(shares),
        share_low=min(shares),
        share_high=max(shares),
        cpu_over_batch=statistics.median(own / other for own, other in zip(*cpu, strict=True)),
    )


def at_rate(
    side: Side, given: Sequence[Ask], share: float, most: float, empty: Alone, seed: int
) -> Rate:
    """Let requests arrive at a share of the most that are answered in a second."""
    due = arrivals(len(given), share * most, seed)
    took = side.ask(given, due)
    seconds, firsts = [one.seconds for one in took], [one.first for one in took]
    slowdowns = [one.seconds / empty.of(ask) for one, ask in zip(took, given, strict=True)]
    p99 = float(np.quantile(seconds, 0.99))
    end = max(one.done for one in took)
    return Rate(
        share=share,
        requests_per_s=share * most,
        requests=len(given),
        seed=seed,
        first_median_s=statistics.median(firsts),
        first_p99_s=float(np.quantile(firsts, 0.99)),
        median_s=statistics.median(seconds),
        p99_s=p99,
        p99_over_alone=p99 / empty.median_s,
        slowdown_p99=float(np.quantile(slowdowns, 0.99)),
        tokens_per_s=sum(one.tokens for one in took) / end,
        piled_up=_inside(took, due[-1]) - _inside(took, due[len(due) // 2]),
        sent_late_ms=1e3 * float(np.quantile([one.lag for one in took], 0.99)),
    )


def _inside(took: Sequence[Answered], at: float) -> int:
    """How many have arrived and are not answered."""
    return sum(one.due <= at < one.done for one in took)


@contextmanager
def sides(which: str, slots: int, http: bool) -> Iterator[tuple[Model, Engine, Side]]:
    """The model, the engine of ``generate_batch``, and who is asked."""
    if which == "llada-8b":
        model = random_model("llada-8b", LLADA_8B, torch.device("cuda"), torch.bfloat16)
    else:
        model = load("pebble", device="auto" if not http else "cpu")
    if model.network.device.type == "cpu":
        torch.set_num_threads(1)
    engine = Engine(model, BASE, slots=slots)
    if http:
        with served(slots) as server:
            yield model, engine, server
    else:
        yield model, engine, InProcess(engine)


def _print(rate: Rate) -> None:
    print(
        f"{rate.share:4.0%} of saturation, {rate.requests_per_s:.2f} requests/s, seed {rate.seed}: "
        f"first {rate.first_median_s:.3f} s, p99 {rate.first_p99_s:.3f}; answer "
        f"{rate.median_s:.3f} s, p99 {rate.p99_s:.3f} ({rate.p99_over_alone:.2f} x the median "
        f"alone, slowdown {rate.slowdown_p99:.2f} x); {rate.tokens_per_s:.0f} tokens/s; piled up "
        f"{rate.piled_up}; sent late {rate.sent_late_ms:.1f} ms",
        flush=True,
    )


def _facts(model: Model, side: Side) -> dict[str, object]:
    """Where, and of what."""
    on_gpu = model.network.device.type == "cuda"
    cpu = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread"
    return {
        "machine": torch.cuda.get_device_name() if on_gpu else cpu,
        "model": model.name,
        "dtype": str(model.network.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "asked": "HTTP, streamed" if isinstance(side, OverHttp) else "Engine.submit, no HTTP",
    }


@click.command()
@click.argument("which", type=click.Choice(["pebble", "llada-8b"]))
@click.option("--http/--in-process", default=None, help="Default: HTTP with pebble alone.")
@click.option("--slots", default=16, show_default=True)
@click.option("--scale", type=float, help="Of lengths; default: 0.25 with pebble, else 1.")
@click.option("--requests", "count", default=300, show_default=True, help="At each rate.")
@click.option("--alone", "single", default=40, show_default=True, help="Requests one by one.")
@click.option("--repeats", default=3, show_default=True, help="Pairs at saturation; seeds at 70 %.")
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(
    which: str,
    http: bool | None,
    slots: int,
    scale: float | None,
    count: int,
    single: int,
    repeats: int,
    out: Path | None,
) -> None:
    """Measure, print, and write if asked."""
    http = which == "pebble" if http is None else http
    if http and which != "pebble":
        raise click.UsageError(f"{which} has random weights here, which no server loads")
    scale = (0.25 if which == "pebble" else 1.0) if scale is None else scale
    with sides(which, slots, http) as (model, engine, side):
        facts = _facts(model, side)
        questions = read_questions(Path("pebble"), "--prompts") if which == "pebble" else []
        ids = cut_from(questions, model) if questions else any_ids
        given = asks(model, ids, count, scale, seed=1)
        side.ask(given[:slots], [0.0] * slots)  # the first of each shape compiles, or captures
        empty = alone(side, given[:single])
        print(
            f"alone: first {empty.first_median_s:.3f} s, answer {empty.median_s:.3f} s, "
            f"p99 {empty.p99_s:.3f} s",
            flush=True,
        )
        full = saturation(side, engine, slots, given, repeats)
        print(
            f"saturation {full.requests_per_s:.2f} requests/s ({full.low:.2f} to {full.high:.2f}), "
            f"{full.tokens_per_s:.0f} tokens/s; {full.share_of_batch:.1%} of generate_batch "
            f"({full.share_low:.1%} to {full.share_high:.1%}), CPU {full.cpu_over_batch:.2f} x",
            flush=True,
        )
        rates = list[Rate]()
        for share in SHARES:
            for seed in range(repeats if math.isclose(share, 0.7) else 1):
                rates.append(at_rate(side, given, share, full.requests_per_s, empty, seed))
                _print(rates[-1])
    at_bar = [rate for rate in rates if math.isclose(rate.share, 0.7)]
    ratio = statistics.median(rate.p99_over_alone for rate in at_bar)
    slowdown = statistics.median(rate.slowdown_p99 for rate in at_bar)
    print(f"at 70 %: p99 {ratio:.2f} x the median alone, slowdown p99 {slowdown:.2f} x")
    if out is not None:
        way = "--http" if http else "--in-process"
        facts |= {
            "load_average": [*os.getloadavg()],
            "command": f"python -m benchmarks.serve {which} {way} --slots {slots} --scale {scale} "
            f"--requests {count} --alone {single} --repeats {repeats}",
            "at_70_percent": {"p99_over_alone": ratio, "slowdown_p99": slowdown},
            "alone": asdict(empty),
            "saturation": asdict(full),
            "rates": [asdict(rate) for rate in rates],
        }
        write_whole(out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
