"""How fast mixtures of experts are: beside reading what few rows hit, and beside the matrix rate.

    python -m benchmarks.experts -o out.json

Layers with weights of their own run one after the other in a captured graph, so that no cache holds
them. Which experts are hit is counted in the same run. With many rows the bound is whichever is
longer, reading or arithmetic: the experts of LLaDA-MoE and LLaDA2-mini still take longer to read
than 1024 rows take to compute, and the share of the matrix rate that can be reached is printed
beside the one that is. ``--sweep`` tries how the products are cut, compiled by many processes
before anything is timed. Needs a GPU.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path

import click
import torch
from torch import Tensor

from skipstone.engine.roofline import Card, measure
from skipstone.models.base import ModelConfig, MoEConfig
from skipstone.models.parts.moe import MoE
from skipstone.models.shapes import SHAPES
from skipstone.ops.model import dispatch as ops
from skipstone.ops.model import triton_experts
from skipstone.ops.model.triton_experts import ExpertTiles
from skipstone.outputs import write_whole

DEVICE, DTYPE = torch.device("cuda"), torch.bfloat16
MODELS = ("llada-moe", "llada2-mini")
REPLAYS = 20

Work = Callable[[], object]


@dataclass(frozen=True)
class Measured:
    """One number of rows through the experts of one layer."""

    model: str
    rows: int
    hit: float
    """Experts that the rows hit, in the mean of the layers."""
    microseconds: float
    """Of the experts alone."""
    with_router: float
    """Microseconds of the whole layer: router, choice, experts, and what all rows share."""
    reading: float
    """Microseconds that reading the experts that are hit takes."""
    arithmetic: float
    """Microseconds that the products take at the card's matrix rate."""

    @property
    def times_reading(self) -> float:
        """How many times as long as reading the experts that are hit."""
        return self.microseconds / self.reading

    @property
    def share_of_rate(self) -> float:
        """Share of the card's matrix rate."""
        return self.arithmetic / self.microseconds

    @property
    def most_of_rate(self) -> float:
        """The largest share of it that the time of reading leaves."""
        return min(1.0, self.arithmetic / self.reading)

    @property
    def share_of_bound(self) -> float:
        """Share of what is possible: the longer of reading and arithmetic, by the time it took."""
        return max(self.reading, self.arithmetic) / self.microseconds

    def figures(self) -> dict[str, object]:
        """All of it, flat."""
        shares = ("times_reading", "share_of_rate", "most_of_rate", "share_of_bound")
        return {**asdict(self), **{name: getattr(self, name) for name in shares}}


@dataclass(frozen=True, eq=False)
class Layers:
    """Mixtures of experts at random weights, and what goes into each."""

    config: ModelConfig
    moe: MoEConfig
    mixtures: Sequence[MoE]

    @classmethod
    def of(cls, name: str, count: int) -> Layers:
        """Weights of a normal distribution; each expert is about as likely as another."""
        config = SHAPES[name]
        assert config.moe is not None
        mixtures = list[MoE]()
        for _ in range(count):
            mixture = MoE(config.moe, config.width, DTYPE, DEVICE)
            for place, weight in mixture.places().items():
                weight.normal_(0.0, 0.0 if place.endswith("bias") else 0.02)
            mixtures.append(mixture)
        return cls(config, config.moe, mixtures)

    def measured(self, name: str, rows: int, card: Card) -> Measured:
        """Time them with so many rows."""
        x_ND = torch.randn(rows, self.config.width, device=DEVICE).to(DTYPE)
        chosen = [mixture.route(x_ND) for mixture in self.mixtures]
        hit = statistics.mean(len(found.expert_NK.unique()) for found in chosen)
        one = 3 * self.config.width * self.moe.expert_width
        work = 2 * one * rows * self.moe.router.top_k
        return Measured(
            name,
            rows,
            hit,
            self.seconds(self._experts(x_ND, chosen, None)) * 1e6,
            self.seconds([partial(m.added, x_ND, x_ND) for m in self.mixtures]) * 1e6,
            hit * one * DTYPE.itemsize / card.bandwidth * 1e6,
            work / card.flops * 1e6,
        )

    def sweep(
        self, rows: int, candidates: Sequence[ExpertTiles]
    ) -> list[tuple[float, ExpertTiles]]:
        """Microseconds of the experts alone however they are cut; the fastest first."""
        x_ND = torch.randn(rows, self.config.width, device=DEVICE).to(DTYPE)
        chosen = [mixture.route(x_ND) for mixture in self.mixtures]
        found = list[tuple[float, ExpertTiles]]()
        for tiles in candidates:
            try:
                seconds = self.seconds(self._experts(x_ND, chosen, tiles))
                found.append((seconds * 1e6, tiles))
            # Not every cut fits into a card's shared memory.
            except Exception as error:
                print(f"  {tiles}: {str(error).splitlines()[0]}")
        return sorted(found, key=lambda pair: pair[0])

    def _experts(
        self, x_ND: Tensor, chosen: Sequence[ops.Chosen], tiles: ExpertTiles | None
    ) -> list[Work]:
        """The experts of each layer, and nothing else."""
        pairs = zip(self.mixtures, chosen, strict=True)
        return [partial(_experts_alone, x_ND, *pair, tiles) for pair in pairs]

    def seconds(self, works: Sequence[Work]) -> float:
        """Seconds of one of them, in a captured graph of all."""
        for work in works:
            work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for work in works:
                work()
        graph.replay()
        times = list[float]()
        for _ in range(REPLAYS):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in "ab")
            start.record()
            graph.replay()
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop) / 1e3)
        return statistics.median(times) / len(works)


def _experts_alone(
    x_ND: Tensor, mixture: MoE, chosen: ops.Chosen, tiles: ExpertTiles | None
) -> Tensor:
    weights = mixture.gate_up_XMD, mixture.down_XDM
    return triton_experts.experts_added(x_ND, x_ND, chosen, *weights, tiles=tiles)


def candidates(rows: int) -> list[ExpertTiles]:
    """Cuts worth trying for so many rows."""
    few = product((16,), (32, 64, 128), (64, 128, 256), (3, 4, 5), (4,))
    many = product((32, 64, 128, 256), (64, 128), (64,), (3, 4), (4, 8))
    cuts = few if rows <= 64 else many
    # What one program sums, and what is in flight to it, must fit.
    return [ExpertTiles(*cut, tma=tma) for cut in cuts for tma in (False, True) if _fits(*cut)]


def _fits(rows: int, block_o: int, block_k: int, num_stages: int, num_warps: int) -> bool:
    sums = 2 * rows * block_o
    return sums <= 128 * 32 * num_warps and (rows + 2 * block_o) * block_k * num_stages <= 113_000


def compiled(task: tuple[str, int, ExpertTiles]) -> str:
    """Compile one cut, in a process of its own; says what failed."""
    name, rows, tiles = task
    config = SHAPES[name]
    assert config.moe is not None
    width, moe = config.width, config.moe
    try:
        x_ND = torch.zeros(rows, width, device=DEVICE, dtype=DTYPE)
        up = torch.empty(moe.num_experts, 2 * moe.expert_width, width, device=DEVICE, dtype=DTYPE)
        down = torch.empty(moe.num_experts, width, moe.expert_width, device=DEVICE, dtype=DTYPE)
        # Of rows that count for nothing no expert is computed, whatever its weights are.
        expert_NK = torch.full((rows, moe.router.top_k), moe.num_experts, device=DEVICE).int()
        chosen = ops.Chosen(expert_NK, torch.zeros(expert_NK.shape, device=DEVICE))
        triton_experts.experts_added(x_ND, x_ND, chosen, up, down, tiles=tiles)
        torch.cuda.synchronize()
    # Not every cut fits into a card's shared memory.
    except Exception as error:
        return f"{name} {tiles}: {str(error).splitlines()[0]}"
    return ""


def compile_all(rows: Sequence[int]) -> None:
    """Fill the compiler's cache, many cuts at once."""
    cuts = {cut: count for count in rows for cut in candidates(count)}
    tasks = [(name, count, cut) for name in MODELS for cut, count in cuts.items()]
    workers = max(1, (os.cpu_count() or 1) - 2)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        print(*filter(None, pool.map(compiled, tasks)), sep="\n", flush=True)


@click.command()
@click.option("--rows", type=int, multiple=True, default=(1, 32, 1024, 4096), show_default=True)
@click.option("--layers", default=4, show_default=True, help="Layers with weights of their own.")
@click.option("--sweep", is_flag=True, help="Try how the products are cut, too.")
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(rows: tuple[int, ...], layers: int, sweep: bool, out: Path | None) -> None:
    """Time mixtures of experts at the shapes of published models."""
    if sweep:
        compile_all(rows)
    torch.manual_seed(0)
    card = measure(DEVICE, DTYPE)
    print(f"{card.name}: {card.bandwidth / 1e12:.2f} TB/s, {card.flops / 1e12:.0f} TFLOP/s")
    found, swept = list[Measured](), list[dict[str, object]]()
    for name in MODELS:
        made = Layers.of(name, layers)
        for count in rows:
            m = made.measured(name, count, card)
            found.append(m)
            print(
                f"{name:12} {count:5} rows: {m.hit:5.1f} experts hit, {m.microseconds:7.1f} us, "
                f"{m.times_reading:.2f} x reading them ({m.with_router:.1f} us with router); "
                f"{m.share_of_rate:.1%} of the matrix rate, of {m.most_of_rate:.1%} at most: "
                f"{m.share_of_bound:.0%} of what is possible",
                flush=True,
            )
            for us, tiles in made.sweep(count, candidates(count))[:5] if sweep else ():
                swept.append({"model": name, "rows": count, "microseconds": us, **asdict(tiles)})
                print(f"  {us:7.1f} us {tiles}", flush=True)
        del made
    if out is not None:
        facts = {
            "command": "python -m benchmarks.experts",
            "card": asdict(card),
            "torch": torch.__version__,
            "layers": layers,
            "experts": [m.figures() for m in found],
            "sweep": swept,
        }
        write_whole(out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
