"""What the loop costs on a CPU, and what the cache and the threshold bring there.

    python -m benchmarks.loop_overhead -o out.json

Both on held-out questions of the embedded model. The loop's own share is all of ``decode`` that is
not spent within the model's calls (embedding, angles, layers, last norm, head): choosing rows,
scores, the commit, statistics, and looking at the clock. It is measured for one token a step.
Speeds are those of whole calls of ``generate``, the two sides in turn, question by question.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import click
import torch

from skipstone import DualCache, Engine, Fixed, Model, NoCache, Settings, Threshold, load, policies
from skipstone.cli.prompts import read_questions
from skipstone.models.base import Network
from skipstone.outputs import write_whole

P = ParamSpec("P")
T = TypeVar("T")

EXACT = Settings(cache=NoCache(), unmask=Fixed())
CACHED = Settings(cache=DualCache(), unmask=Fixed())
FAST = Settings(cache=DualCache(), unmask=Threshold(0.9))


@dataclass(frozen=True)
class Speed:
    """Fast settings against exact ones."""

    threads: int
    prompts: int
    exact_tokens_per_s: float
    """Median over the prompts."""
    fast_tokens_per_s: float
    times: float
    """Median over the prompts of fast by exact."""
    quartiles: tuple[float, float]
    same_text: int
    """Prompts that both sides answer alike."""


@dataclass(frozen=True)
class Share:
    """How much of a decode the loop takes for itself."""

    threads: int
    cache: str
    prompts: int
    steps: int
    """Of all prompts."""
    step_ms: float
    """Median over the prompts of the time of one step."""
    own_ms: float
    """The part of it that is not within the model's calls."""
    own_percent: float
    quartiles_percent: tuple[float, float]


class Clocked:
    """A network that notes how long its calls take."""

    def __init__(self, network: Network) -> None:
        self.config, self.dtype, self.device = network.config, network.dtype, network.device
        self.published, self.copy = network.published, network.copy
        self.embed, self.angles = self._clocked(network.embed), self._clocked(network.angles)
        self.layer, self.values = self._clocked(network.layer), self._clocked(network.values)
        self.attended = self._clocked(network.attended)
        self.with_mlp = self._clocked(network.with_mlp)
        self.final_norm, self.head = self._clocked(network.final_norm), self._clocked(network.head)
        self.seconds = 0.0

    def _clocked(self, call: Callable[P, T]) -> Callable[P, T]:
        def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            started = time.perf_counter()
            value = call(*args, **kwargs)
            self.seconds += time.perf_counter() - started
            return value

        return timed


def speed(model: Model, prompts: Sequence[str]) -> Speed:
    """Answer each prompt under both settings, in turn; which goes first alternates."""
    engines = Engine(model, EXACT), Engine(model, FAST)
    for engine in engines:
        engine.generate(prompts[0])
    rates, same = list[tuple[float, float]](), 0
    for i, prompt in enumerate(prompts):
        order = (0, 1) if i % 2 else (1, 0)
        results = {side: engines[side].generate(prompt) for side in order}
        exact, fast = results[0], results[1]
        rates.append((exact.stats.tokens_per_second, fast.stats.tokens_per_second))
        same += exact.text == fast.text
    low, middle, high = statistics.quantiles((fast / exact for exact, fast in rates), n=4)
    return Speed(
        threads=torch.get_num_threads(),
        prompts=len(prompts),
        exact_tokens_per_s=statistics.median(exact for exact, _ in rates),
        fast_tokens_per_s=statistics.median(fast for _, fast in rates),
        times=middle,
        quartiles=(low, high),
        same_text=same,
    )


@torch.inference_mode()
def share(model: Model, settings: Settings, prompts: Sequence[str]) -> Share:
    """Decode each prompt with clocks around the model's calls; the first one warms up.

    The clocks themselves count as the loop's: the share is rather too large than too small.
    """
    network = Clocked(model.network)
    engine = Engine(replace(model, network=network), settings)
    found = list[tuple[float, float, int]]()
    for prompt in (prompts[0], *prompts):
        run = engine.start([model.text.encode(prompt)])
        network.seconds, started = 0.0, time.perf_counter()
        (done,) = run.decode()
        found.append((time.perf_counter() - started, network.seconds, len(done.stats)))
    del found[0]
    low, middle, high = statistics.quantiles((100 * (1 - i / s) for s, i, _ in found), n=4)
    return Share(
        threads=torch.get_num_threads(),
        cache=policies.CACHE.spell(settings.cache, brief=True),
        prompts=len(prompts),
        steps=sum(steps for _, _, steps in found),
        step_ms=statistics.median(1e3 * seconds / steps for seconds, _, steps in found),
        own_ms=statistics.median(1e3 * (s - inside) / steps for s, inside, steps in found),
        own_percent=middle,
        quartiles_percent=(low, high),
    )


def spread(texts: Sequence[str], count: int) -> list[str]:
    """Some of them, evenly from all over the file."""
    return [texts[i * len(texts) // count] for i in range(count)]


@click.command()
@click.option("--prompts", "path", default="pebble", type=click.Path(path_type=Path))
@click.option("--limit", default=24, show_default=True, help="Questions whose speed is measured.")
@click.option("--clocked", default=8, show_default=True, help="Questions whose steps are clocked.")
@click.option("--threads", multiple=True, default=(1, 2), show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(path: Path, limit: int, clocked: int, threads: tuple[int, ...], out: Path | None) -> None:
    """Measure both with each number of threads, print, and write if asked."""
    texts = [question.prompt for question in read_questions(path, "--prompts")]
    model, before = load("pebble", device="cpu"), os.getloadavg()[0]
    speeds, shares = list[Speed](), list[Share]()
    for count in threads:
        torch.set_num_threads(count)
        for settings in (EXACT, CACHED):
            shares.append(share(model, settings, spread(texts, clocked)))
            print(_line(shares[-1]), flush=True)
        speeds.append(s := speed(model, spread(texts, limit)))
        print(
            f"{count} threads  exact {s.exact_tokens_per_s:.1f} tokens/s  fast "
            f"{s.fast_tokens_per_s:.1f}  {s.times:.1f} times ({s.quartiles[0]:.1f} to "
            f"{s.quartiles[1]:.1f})  same text {s.same_text}/{s.prompts}",
            flush=True,
        )
    if out is not None:
        facts = {
            "command": f"python -m benchmarks.loop_overhead --limit {limit} --clocked {clocked} "
            + " ".join(f"--threads {count}" for count in threads),
            "load_average": [before, os.getloadavg()[0]],
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "speeds": [asdict(s) for s in speeds],
            "shares": [asdict(s) for s in shares],
        }
        write_whole(out, json.dumps(facts, indent=1) + "\n")


def _line(s: Share) -> str:
    low, high = s.quartiles_percent
    return (
        f"{s.threads} threads  cache {s.cache:5} step {s.step_ms:6.2f} ms  the loop's own "
        f"{s.own_ms:.3f} ms, {s.own_percent:.1f} % ({low:.1f} to {high:.1f})"
    )


if __name__ == "__main__":
    main()
