"""Finds the cut of every product of few rows, on the card that is here.

    python -m tuning -o out.json

Every product runs over the different weights of all layers in one captured graph, so that no cache
holds them; then the best are tried in whole steps. Needs a Hopper. What is found goes into the
table of ``skipstone.ops.model.triton_linear``; ``benchmarks.few_rows`` measures what the table
gives.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from skipstone.engine.roofline import Card, measure
from skipstone.models.shapes import LLADA_8B, SHAPES
from skipstone.ops.model.triton_linear import Config
from skipstone.outputs import write_whole
from tuning.candidates import compile_all, variants
from tuning.products import PRODUCTS, alike, random_weights, shapes_of
from tuning.steps import steps
from tuning.sweep import COMPOSED, EARLY, FEW, LIBRARY, Timing, best, sweep


def report(timings: list[Timing], found: list[dict[str, Any]], rows: Iterable[int]) -> None:
    """A short table."""
    for name in PRODUCTS:
        for n in rows:
            for way, shown in ((LIBRARY, 1), (COMPOSED, 1), (FEW, 4), (EARLY, 4)):
                for t in best(timings, name, n, way)[:shown]:
                    print(
                        f"{name:8} {n:2} {way:13} {t.microseconds:6.1f} us "
                        f"{t.terabytes_per_second:.2f} TB/s  error {t.error:.1e}  "
                        f"{t.config or ''}"
                    )
    for step in found:
        print(
            f"{step['name']:36} {step['ms']:6.3f} ms  {step['times_floor']:.3f} x floor  "
            f"{step['apart']:.1e} apart"
        )
    for step in found:
        if step["name"] in (FEW, EARLY):
            for name, config in step["configs"].items():
                print(f"in a step, {step['name']}: {name:8} {Config(**config)}")


@click.command()
@click.option("--model", type=click.Choice(list(SHAPES)), default="llada-8b", show_default=True)
@click.option("--rows", type=int, multiple=True, default=(32, 8, 64), show_default=True)
@click.option("--workers", default=12, show_default=True, help="Processes that compile.")
@click.option("--limit", default=190, show_default=True, help="Seconds; then no more sweeps.")
@click.option("--context", default=0, help="Positions to attend to in a step; 0 for a stand-in.")
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(
    model: str, rows: tuple[int, ...], workers: int, limit: int, context: int, out: Path | None
) -> None:
    """Time products of few rows by every config, then whole steps of LLaDA-8B by the best."""
    started = time.perf_counter()
    shapes = shapes_of(SHAPES[model])
    tasks = [v for n in rows for name, shape in shapes.items() for v in variants(name, shape, n)]
    wrong = compile_all(tasks, workers)
    print(f"{len(tasks)} variants compiled after {time.perf_counter() - started:.0f} s")
    torch.manual_seed(0)
    card = measure(torch.device("cuda"), torch.bfloat16)
    weights = random_weights(SHAPES[model])
    numbers = sum(w.numel() for those in weights.values() for w in those)
    floor = numbers * 2 / card.bandwidth
    print(f"{card.name}: {card.bandwidth / 1e12:.2f} TB/s, floor of a step {floor * 1e3:.2f} ms")
    timings, found = list[Timing](), list[dict[str, Any]]()
    swept = list[int]()
    for n in rows:
        if time.perf_counter() - started > limit:
            print(f"out of time: no sweep of {n} rows")
            continue
        swept.append(n)
        for name in PRODUCTS:
            timings += sweep(name, n, weights[name] * (3 if name == "head" else 1), wrong)
        print(f"{n} rows swept after {time.perf_counter() - started:.0f} s", flush=True)
        if n == 32 and SHAPES[model] is LLADA_8B:
            found = steps(weights, timings, floor, context)
            print(f"steps timed after {time.perf_counter() - started:.0f} s", flush=True)
        if out is not None:
            write(out, model, card, floor, timings, found)
    report(timings, found, swept)
    print("rows alike:", {name: alike(name, those[0]) for name, those in weights.items()})


def write(
    out: Path,
    model: str,
    card: Card,
    floor: float,
    timings: list[Timing],
    found: list[dict[str, Any]],
) -> None:
    """Everything that was measured so far."""
    facts = {
        "command": f"python -m tuning --model {model}",
        "card": card.name,
        "torch": torch.__version__,
        "terabytes_per_second": card.bandwidth / 1e12,
        "floor_ms": floor * 1e3,
        "products": [asdict(t) for t in timings],
        "steps": found,
    }
    write_whole(out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
