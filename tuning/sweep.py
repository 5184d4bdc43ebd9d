"""Every cut of every product, timed over the weights of all layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from skipstone.ops.model.triton_linear import Config
from skipstone.ops.triton_early import served_early
from tuning.candidates import Variant, variants
from tuning.products import PRODUCTS, captured, composed, exact, few_rows, inputs, seconds

LIBRARY, COMPOSED, FEW, EARLY = "F.linear", "composed", "few rows", "few rows, early"


@dataclass(frozen=True)
class Timing:
    """One way to compute one product with its epilogue."""

    product: str
    rows: int
    way: str
    config: Config | None
    microseconds: float
    terabytes_per_second: float
    """Of the weight alone."""
    error: float
    """Against float64, as a part of the norm."""


def timed(
    name: str,
    way: str,
    config: Config | None,
    work: Callable[[Tensor], Tensor],
    weights: list[Tensor],
    expected: Tensor | None,
    rows: int,
) -> Timing:
    """Time a product over all its weights."""
    graph, given = captured(lambda: [work(w) for w in weights])
    spent = seconds(graph) / len(weights)
    error = 0.0
    if expected is not None:
        error = ((given[0].double() - expected).norm() / expected.norm()).item()
    rate = weights[0].numel() * 2 / spent / 1e12
    return Timing(name, rows, way, config, spent * 1e6, rate, error)


def sweep(name: str, rows: int, weights: list[Tensor], wrong: dict[Variant, str]) -> list[Timing]:
    """The library, today's composition, and our kernel in every variant that compiled."""
    shape = weights[0].shape[0], weights[0].shape[1]
    given = inputs(weights[0], rows)
    expected = exact(name, given, weights[0])

    def library(weight_OK: Tensor) -> Tensor:
        return F.linear(given.x_NK, weight_OK)

    def today(weight_OK: Tensor) -> Tensor:
        with served_early(False):
            return composed(name, given, weight_OK)

    timings = [
        timed(name, LIBRARY, None, library, weights, None, rows),
        timed(name, COMPOSED, None, today, weights, expected, rows),
    ]
    for v in variants(name, shape, rows):

        def ours(weight_OK: Tensor, v: Variant = v) -> Tensor:
            with served_early(v.early):
                return few_rows(name, given, weight_OK, v.config)

        try:
            if why := wrong.get(v):
                raise RuntimeError(why)
            way = EARLY if v.early else FEW
            timing = timed(name, way, v.config, ours, weights, expected, rows)
        except Exception as error:
            print(f"{v} left out: {str(error)[:150]}")
            continue
        timings.append(timing)
        if not timing.error < 1e-2:
            print(f"{v} is WRONG by {timing.error:.2g}")
    return timings


def best(timings: Iterable[Timing], name: str, rows: int, way: str) -> list[Timing]:
    """Right ways to compute a product, the fastest first."""
    those = [t for t in timings if (t.product, t.rows, t.way) == (name, rows, way)]
    return sorted((t for t in those if t.error < 1e-2), key=lambda t: t.microseconds)


Configs = dict[str, Config]


def fastest(timings: Iterable[Timing], way: str, rank: int = 0) -> Configs:
    """The best config of each product at 32 rows, or a worse one by rank."""
    timings = list(timings)
    ranked = {name: best(timings, name, 32, way)[rank : rank + 1] for name in PRODUCTS}
    return {name: those[0].config for name, those in ranked.items() if those and those[0].config}
