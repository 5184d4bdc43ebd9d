"""How fast mixtures of experts are: beside reading what few rows hit, and beside the matrix rate.

    python -m benchmarks.experts -o out.json

Layers with weights of their own run one after the other in a captured graph, so that no cache holds
them. Which experts are hit is counted in the same run. With many rows the bound is whichever is
longer, reading or arithmetic: the experts of LLaDA-MoE and LLaDA2-mini still take longer to read
than 1024 rows take to compute, and the share of the matrix rate that can be reached is printed
beside the one that is. ``--sweep`` tries how the products are cut. Needs a GPU.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
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
    sizes = ((16,), (64, 128), (64, 128), (3, 4), (4,)) if rows <= 64 else None
    sizes = sizes or ((32, 64, 128), (64, 128), (64,), (3, 4), (4, 8))
    return [ExpertTiles(*size, tma=tma) for size in product(*sizes) for tma in (False, True)]


@click.command()
@click.option("--rows", type=int, multiple=True, default=(1, 32, 1024, 4096), show_default=True)
@click.option("--layers", default=4, show_default=True, help="Layers with weights of their own.")
@click.option("--sweep", is_flag=True, help="Try how the products are cut, too.")
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(rows: tuple[int, ...], layers: int, sweep: bool, out: Path | None) -> None:
    """Time mixtures of experts at the shapes of published models."""
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
                f"{m.share_of_rate:.1%} of the matrix rate, of {m.most_of_rate:.1%} at most"
            )
            for us, tiles in made.sweep(count, candidates(count))[:5] if sweep else ():
                swept.append({"model": name, "rows": count, "microseconds": us, **asdict(tiles)})
                print(f"  {us:7.1f} us {tiles}")
        del made
    if out is not None:
        facts = {
            "command": "python -m benchmarks.experts",
            "card": asdict(card),
            "torch": torch.__version__,
            "layers": layers,
            "experts": [asdict(m) for m in found],
            "sweep": swept,
        }
        write_whole(out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
