"""How fast products of few rows read their weights: our kernels beside the library.

    python -m benchmarks.few_rows -o out.json

Every product runs over the different weights of all layers in one captured graph, so that no cache
holds them; then a whole step at LLaDA-8B's shape, with a stand-in for attention or, with
``--context``, with its kernels. ``python -m tuning`` finds how they are cut. Needs a Hopper.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from skipstone.engine.roofline import measure
from skipstone.ops.triton_early import served_early
from skipstone.outputs import write_whole
from tuning.products import (
    PRODUCTS,
    Inputs,
    Weights,
    alike,
    composed,
    exact,
    few_rows,
    inputs,
    random_weights,
)
from tuning.steps import Plan, Steps, facts
from tuning.sweep import COMPOSED, EARLY, FEW, LIBRARY, Timing, timed

STEPS = [
    Plan("cuBLAS and kernels of rows", None),
    Plan("cuBLAS and kernels of rows, early", None, early=True),
    Plan(FEW, {}),
    Plan(EARLY, {}, early=True),
    Plan("cuBLAS and kernels of rows, again", None),
]


def products(weights: Weights, rows: int) -> Iterable[Timing]:
    """Every product of so many rows, three ways."""
    for name in PRODUCTS:
        given = inputs(weights[name][0], rows)
        those = weights[name] * (3 if name == "head" else 1)
        expected = exact(name, given, those[0])
        with served_early(False):
            # The library alone has no epilogue to compare.
            yield timed(name, LIBRARY, None, library(given), those, None, rows)
            yield timed(name, COMPOSED, None, partial(composed, name, given), those, expected, rows)
            ours = partial(few_rows, name, given, config=None)
            yield timed(name, FEW, None, ours, those, expected, rows)


def library(given: Inputs) -> Callable[[Tensor], Tensor]:
    """The product alone."""
    return partial(F.linear, given.x_NK)


@click.command()
@click.option("--rows", type=int, multiple=True, default=(8, 32, 64), show_default=True)
@click.option("--context", default=0, help="Positions to attend to in a step; 0 for a stand-in.")
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(rows: tuple[int, ...], context: int, out: Path | None) -> None:
    """Time products of few rows, then whole steps."""
    torch.manual_seed(0)
    card = measure(torch.device("cuda"), torch.bfloat16)
    weights = random_weights()
    floor = sum(w.numel() for those in weights.values() for w in those) * 2 / card.bandwidth
    print(f"{card.name}: {card.bandwidth / 1e12:.2f} TB/s, floor of a step {floor * 1e3:.2f} ms")
    timings = [timing for n in rows for timing in products(weights, n)]
    for t in timings:
        print(
            f"{t.product:8} {t.rows:2} {t.way:9} {t.microseconds:6.1f} us "
            f"{t.terabytes_per_second:.2f} TB/s  error {t.error:.1e}"
        )
    found = facts(Steps(weights, context), STEPS, floor)
    for step in found:
        print(
            f"{step['name']:36} {step['ms']:6.3f} ms  {step['times_floor']:.3f} x floor  "
            f"{step['apart']:.1e} apart"
        )
    print("rows alike:", {name: alike(name, those[0]) for name, those in weights.items()})
    if out is not None:
        measured: dict[str, Any] = {
            "command": "python -m benchmarks.few_rows",
            "card": card.name,
            "torch": torch.__version__,
            "terabytes_per_second": card.bandwidth / 1e12,
            "floor_ms": floor * 1e3,
            "products": [asdict(t) for t in timings],
            "steps": found,
        }
        write_whole(out, json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
