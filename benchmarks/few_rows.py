"""How fast products of few rows read their weights: kernels against the library, and in a step.

    python -m benchmarks.few_rows -o out.json

Every product runs over the different weights of all layers in one captured graph, so that no cache
holds them; then a whole step at LLaDA-8B's shape, with a stand-in for attention or, with
``--context``, with its kernels. Needs a Hopper.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from skipstone.engine.roofline import measure
from skipstone.models.shapes import LLADA_8B
from skipstone.ops.model import reference, triton_attend, triton_linear, triton_rows
from skipstone.ops.model.triton_linear import Config
from skipstone.ops.triton_early import served_early
from skipstone.outputs import write_whole
from skipstone.rows import Rows

WIDTH, MLP, VOCAB = LLADA_8B.width, LLADA_8B.mlp_width, LLADA_8B.vocab_size
SHAPES = {
    "qkv": (3 * WIDTH, WIDTH),
    "attn_out": (WIDTH, WIDTH),
    "gate_up": (2 * MLP, WIDTH),
    "down": (WIDTH, MLP),
    "head": (VOCAB, WIDTH),
}
"""Weights [O, K] of LLaDA-8B; all but the head are there once a layer."""
EPS = LLADA_8B.norm_eps
T = TypeVar("T")
LIBRARY, COMPOSED, FEW, EARLY = "F.linear", "composed", "few rows", "few rows, early"
SHARED_MEMORY = 227 * 1024
PLAIN = [
    Config(128, 128, 5),
    Config(128, 64, 8),
    Config(128, 64, 5),
    Config(128, 128, 5, num_warps=8),
    Config(64, 256, 4),
    Config(64, 128, 4),
    Config(64, 128, 3),
    Config(64, 64, 8),
    Config(32, 128, 4),
    Config(128, 128, 5, tma=True),
    Config(128, 64, 5, tma=True),
    Config(64, 256, 4, tma=True),
    Config(64, 128, 4, tma=True),
]
GATED = [
    Config(64, 128, 5),
    Config(64, 128, 3),
    Config(64, 64, 5),
    Config(64, 64, 8),
    Config(64, 256, 2),
    Config(128, 64, 6),
    Config(128, 64, 6, num_warps=8),
    Config(128, 128, 3, num_warps=8),
    Config(32, 128, 4),
    Config(64, 128, 5, tma=True),
    Config(64, 64, 5, tma=True),
    Config(128, 64, 6, num_warps=8, tma=True),
]
ADDED = [
    Config(64, 128, 4, splits=4),
    Config(64, 128, 4, splits=2),
    Config(64, 128, 3, splits=6),
    Config(64, 256, 4, splits=2),
    Config(64, 64, 8, splits=4),
    Config(64, 64, 4, splits=8),
    Config(128, 128, 5, splits=4),
    Config(128, 64, 5, splits=8),
    Config(128, 128, 5, splits=8),
    Config(32, 256, 4, splits=2),
    Config(64, 128, 4, splits=4, tma=True),
    Config(64, 256, 4, splits=2, tma=True),
    Config(128, 128, 5, splits=4, tma=True),
]
CANDIDATES = {"qkv": PLAIN, "attn_out": ADDED, "gate_up": GATED, "down": ADDED, "head": PLAIN}


def fitting(name: str, config: Config, rows: int) -> Config:
    """The same with as many stages as shared memory holds."""
    padded = 16 if rows <= 16 else 32 if rows <= 32 else 64
    tiles = config.block_o * (2 if name == "gate_up" else 1) + padded
    stages = (SHARED_MEMORY - 512) // (tiles * config.block_k * 2)
    return replace(config, num_stages=min(config.num_stages, stages))


@dataclass(frozen=True)
class Inputs:
    """What a product and its epilogue read, beside the weight."""

    x_NK: Tensor
    stream_ND: Tensor
    norm_D: Tensor


def inputs(name: str, rows: int) -> Inputs:
    """Random rows for a product."""
    outputs, width = SHAPES[name]
    made = (torch.randn(s, device="cuda") for s in ((rows, width), (rows, outputs), (outputs,)))
    return Inputs(*(x.bfloat16() for x in made))


def few_rows(name: str, given: Inputs, weight_OK: Tensor, config: Config | None) -> Tensor:
    """A product by our kernels, with what they do beside it."""
    if name == "gate_up":
        return triton_linear.linear_swiglu(given.x_NK, weight_OK, config=config)
    if name in ("qkv", "head"):
        return triton_linear.linear(given.x_NK, weight_OK, config=config)
    if name == "down":
        return triton_linear.linear_add(given.stream_ND, given.x_NK, weight_OK, config=config)
    return triton_linear.linear_add_rms_norm(
        given.stream_ND, given.x_NK, weight_OK, given.norm_D, EPS, config=config
    )[1]


def composed(name: str, given: Inputs, weight_OK: Tensor) -> Tensor:
    """The same by the library and the kernels of rows."""
    out_NO = F.linear(given.x_NK, weight_OK)
    if name == "gate_up":
        return triton_rows.swiglu(out_NO)
    if name in ("qkv", "head"):
        return out_NO
    if name == "down":
        return given.stream_ND + out_NO
    return triton_rows.add_rms_norm(given.stream_ND, out_NO, given.norm_D, EPS)[1]


def exact(name: str, given: Inputs, weight_OK: Tensor) -> Tensor:
    """The same in float64."""
    out_NO = given.x_NK.double() @ weight_OK.double().T
    if name == "gate_up":
        gate, up = out_NO.chunk(2, dim=-1)
        return F.silu(gate) * up
    if name in ("qkv", "head"):
        return out_NO
    total = given.stream_ND.double() + out_NO
    if name == "down":
        return total
    return total * (total.square().mean(-1, keepdim=True) + EPS).rsqrt() * given.norm_D.double()


@dataclass(frozen=True)
class Variant:
    """One way for our kernels to compute a product."""

    product: str
    rows: int
    config: Config
    early: bool


def variants(name: str, rows: int) -> list[Variant]:
    """All that are tried; early starts only with 32 rows, to save time."""
    configs = dict.fromkeys(fitting(name, c, rows) for c in CANDIDATES[name])
    ways = (False, True) if rows == 32 else (False,)
    return [Variant(name, rows, config, early) for early in ways for config in configs]


def compiled(v: Variant) -> str:
    """Compile a variant in a process of its own; why it fails, or nothing."""
    try:
        weight_OK = torch.zeros(SHAPES[v.product], device="cuda", dtype=torch.bfloat16)
        with served_early(v.early):
            few_rows(v.product, inputs(v.product, v.rows), weight_OK, v.config)
        torch.cuda.synchronize()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:150]
    return ""


def compile_all(tasks: Iterable[Variant], workers: int) -> dict[Variant, str]:
    """Fill Triton's cache from several processes: what is wrong with each variant, if anything."""
    found = dict[Variant, str]()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(compiled, task): task for task in tasks}
        for done in as_completed(waiting):
            error = done.exception()
            found[waiting[done]] = done.result() if error is None else repr(error)[:150]
    return found


def captured(work: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
    """Capture some work, after running it once: the graph, and what a replay gives."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        given = work()
    return graph, given


def seconds(graph: torch.cuda.CUDAGraph, repeats: int = 10, together: int = 3) -> float:
    """Median time of a replay, of a few launched together."""
    times = list[float]()
    for i in range(repeats + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
        start.record()
        for _ in range(together):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        if i >= 2:
            times.append(start.elapsed_time(end) / 1e3 / together)
    return statistics.median(times)


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
    given = inputs(name, rows)
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
    for v in variants(name, rows):

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


def alike(name: str, weight_OK: Tensor) -> bool:
    """Whether a row is computed bit for bit alike, however many are beside it."""
    whole = inputs(name, 64)
    out_NO = few_rows(name, whole, weight_OK, None)
    parts = (Inputs(whole.x_NK[:n], whole.stream_ND[:n], whole.norm_D) for n in (1, 8, 32))
    outs = [few_rows(name, part, weight_OK, None) for part in parts]
    return all(torch.equal(out, out_NO[: len(out)]) for out in outs)


Configs = dict[str, Config]


def fastest(timings: Iterable[Timing], way: str, rank: int = 0) -> Configs:
    """The best config of each product at 32 rows, or a worse one by rank."""
    timings = list(timings)
    ranked = {name: best(timings, name, 32, way)[rank : rank + 1] for name in SHAPES}
    return {name: those[0].config for name, those in ranked.items() if those and those[0].config}


Weights = dict[str, list[Tensor]]


@dataclass(frozen=True)
class Plan:
    """How a step is computed."""

    name: str
    configs: Configs | None
    """None for the library and the kernels of rows."""
    early: bool = False
    """Whether kernels start while the one before still runs."""


Attention = Callable[[Tensor, int], Tensor]
"""What becomes of qkv [N, 3 D] in a layer: [N, D]."""


def stand_in(qkv_NM: Tensor, layer: int) -> Tensor:
    """A small kernel in the place of rotation and attention."""
    return torch.add(qkv_NM[:, :WIDTH], qkv_NM[:, 2 * WIDTH :], alpha=0.5)


class Attends:
    """Rotation, the write of K/V and attention for 32 rows of one request."""

    def __init__(self, context: int) -> None:
        start = (context - 32) // 2
        self.rows = Rows.spans([(0, start, start + 32)], torch.device("cuda")).own()
        self.head_width = WIDTH // LLADA_8B.num_heads
        shape = (2, LLADA_8B.num_layers, 1, context, LLADA_8B.num_heads, self.head_width)
        self.store = torch.zeros(shape, device="cuda", dtype=torch.bfloat16)
        angles = reference.rotary_tables(context, self.head_width, 5e5, self.rows.device)
        self.angles_2NE = angles[:, self.rows.position_N].contiguous()

    def __call__(self, qkv_NM: Tensor, layer: int) -> Tensor:
        """Attended states; overwrites the rows' K/V."""
        qkv_NHE = qkv_NM.unflatten(-1, (-1, self.head_width))
        key, value = self.store[:, layer]
        q_NHE = triton_rows.rotate_and_write(qkv_NHE, self.angles_2NE, key, value, self.rows)
        return triton_attend.attend(q_NHE, key, value, self.rows, None)


def step_today(x_ND: Tensor, norm_D: Tensor, weights: Weights, attention: Attention) -> Tensor:
    """A step by the library and the kernels of rows."""
    for layer, (qkv, attn_out, gate_up, down) in enumerate(layers(weights)):
        normed_ND = triton_rows.rms_norm(x_ND, norm_D, EPS)
        attended_ND = attention(F.linear(normed_ND, qkv), layer)
        x_ND, normed_ND = triton_rows.add_rms_norm(
            x_ND, F.linear(attended_ND, attn_out), norm_D, EPS
        )
        x_ND = x_ND + F.linear(triton_rows.swiglu(F.linear(normed_ND, gate_up)), down)
    return F.linear(triton_rows.rms_norm(x_ND, norm_D, EPS), weights["head"][0])


def layers(weights: Weights) -> Iterable[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Weights of each layer, in the order of their use."""
    return zip(*(weights[name] for name in ("qkv", "attn_out", "gate_up", "down")), strict=True)


def step(
    x_ND: Tensor, norm_D: Tensor, weights: Weights, attention: Attention, configs: Configs
) -> Tensor:
    """A step by our kernels: logits [N, V]."""
    config = configs.get
    for layer, (qkv, attn_out, gate_up, down) in enumerate(layers(weights)):
        normed_ND = triton_rows.rms_norm(x_ND, norm_D, EPS)
        qkv_NM = triton_linear.linear(normed_ND, qkv, config=config("qkv"))
        attended_ND = attention(qkv_NM, layer)
        x_ND, normed_ND = triton_linear.linear_add_rms_norm(
            x_ND, attended_ND, attn_out, norm_D, EPS, config=config("attn_out")
        )
        gated_NM = triton_linear.linear_swiglu(normed_ND, gate_up, config=config("gate_up"))
        x_ND = triton_linear.linear_add(x_ND, gated_NM, down, config=config("down"))
    normed_ND = triton_rows.rms_norm(x_ND, norm_D, EPS)
    return triton_linear.linear(normed_ND, weights["head"][0], config=config("head"))


def plans(few: Plan, early: Plan) -> list[Plan]:
    """Ways to compute a step, given the best without and with early starts."""
    return [
        Plan("cuBLAS and kernels of rows", None),
        few,
        early,
        Plan("cuBLAS and kernels of rows, early", None, early=True),
        replace(few, name="few rows, chosen configs", configs={}),
        replace(early, name="few rows, early, chosen configs", configs={}),
        Plan("cuBLAS and kernels of rows, again", None),
    ]


class Steps:
    """Times whole steps of 32 rows."""

    def __init__(self, weights: Weights, context: int) -> None:
        self.weights, self.context = weights, context
        self.attention = Attends(context) if context else stand_in
        self.x_ND = torch.randn(32, WIDTH, device="cuda").bfloat16()
        self.norm_D = torch.ones(WIDTH, device="cuda", dtype=torch.bfloat16)
        self.baseline = step_today(self.x_ND, self.norm_D, weights, self.attention).float()

    def timed(self, plan: Plan, repeats: int = 10) -> tuple[float, float]:
        """Seconds under a plan, and how far its logits are from the baseline's."""
        given = (self.x_ND, self.norm_D, self.weights, self.attention)

        def work() -> Tensor:
            with served_early(plan.early):
                if plan.configs is None:
                    return step_today(*given)
                return step(*given, plan.configs)

        graph, logits_NV = captured(work)
        spent = seconds(graph, repeats)
        return spent, ((logits_NV.float() - self.baseline).norm() / self.baseline.norm()).item()

    def refined(self, plan: Plan, timings: list[Timing]) -> Plan:
        """The same with the configs that are best in a step: those next in rank are tried too."""
        way = EARLY if plan.early else FEW
        chosen = fastest(timings, way)
        spent, _ = self.timed(replace(plan, configs=chosen), 5)
        for name, rank in product(SHAPES, (1, 2, 3)):
            config = fastest(timings, way, rank).get(name)
            if config is None:
                continue
            tried = {**chosen, name: config}
            try:
                now, _ = self.timed(replace(plan, configs=tried), 5)
            except Exception as error:
                print(f"{plan.name} {config} left out: {str(error)[:150]}")
                continue
            if now < 0.998 * spent:
                chosen, spent = tried, now
        return replace(plan, configs=chosen)


def steps(
    weights: Weights, timings: list[Timing], floor: float, context: int
) -> list[dict[str, Any]]:
    """Time a whole step of 32 rows under every plan; ``floor`` in seconds."""
    timer = Steps(weights, context)
    few = refined_or_not(timer, Plan(FEW, fastest(timings, FEW)), timings)
    early = Plan(EARLY, fastest(timings, EARLY), early=True)
    early = refined_or_not(timer, early, timings)
    return facts(timer, plans(few, early), floor)


def facts(timer: Steps, tried: Iterable[Plan], floor: float) -> list[dict[str, Any]]:
    """What was measured of some plans; those that fail are left out."""
    found = list[dict[str, Any]]()
    for plan in tried:
        try:
            spent, apart = timer.timed(plan)
        except Exception as error:
            print(f"{plan.name} left out: {type(error).__name__}: {str(error)[:150]}")
            continue
        measured = {"ms": spent * 1e3, "times_floor": spent / floor, "apart": apart}
        found.append({**asdict(plan), "context": timer.context, **measured})
    return found


def refined_or_not(timer: Steps, plan: Plan, timings: list[Timing]) -> Plan:
    """A plan as good as could be found."""
    try:
        return timer.refined(plan, timings)
    except Exception as error:
        print(f"{plan.name} not refined: {type(error).__name__}: {str(error)[:150]}")
        return plan


def random_weights() -> Weights:
    """All weights of LLaDA-8B but the embedding."""
    return {
        name: [
            torch.empty(shape, device="cuda", dtype=torch.bfloat16).normal_(0.0, 0.02)
            for _ in range(1 if name == "head" else LLADA_8B.num_layers)
        ]
        for name, shape in SHAPES.items()
    }


def report(timings: list[Timing], found: list[dict[str, Any]], rows: Iterable[int]) -> None:
    """A short table."""
    for name in SHAPES:
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
@click.option("--rows", type=int, multiple=True, default=(32, 8, 64), show_default=True)
@click.option("--workers", default=12, show_default=True, help="Processes that compile.")
@click.option("--limit", default=190, show_default=True, help="Seconds; then no more sweeps.")
@click.option("--context", default=0, help="Positions to attend to in a step; 0 for a stand-in.")
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(rows: tuple[int, ...], workers: int, limit: int, context: int, out: Path | None) -> None:
    """Time products of few rows by every config, then whole steps by the best."""
    started = time.perf_counter()
    tasks = [v for n in rows for name in SHAPES for v in variants(name, n)]
    wrong = compile_all(tasks, workers)
    print(f"{len(tasks)} variants compiled after {time.perf_counter() - started:.0f} s")
    torch.manual_seed(0)
    card = measure(torch.device("cuda"), torch.bfloat16)
    weights = random_weights()
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
        for name in SHAPES:
            timings += sweep(name, n, weights[name] * (3 if name == "head" else 1), wrong)
        print(f"{n} rows swept after {time.perf_counter() - started:.0f} s", flush=True)
        if n == 32:
            found = steps(weights, timings, floor, context)
            print(f"steps timed after {time.perf_counter() - started:.0f} s", flush=True)
        if out is not None:
            write(out, card.name, card.bandwidth, floor, timings, found)
    report(timings, found, swept)
    print("rows alike:", {name: alike(name, those[0]) for name, those in weights.items()})


def write(
    out: Path,
    name: str,
    bandwidth: float,
    floor: float,
    timings: list[Timing],
    found: list[dict[str, Any]],
) -> None:
    """Everything that was measured so far."""
    facts = {
        "command": "python -m benchmarks.few_rows",
        "card": name,
        "torch": torch.__version__,
        "terabytes_per_second": bandwidth / 1e12,
        "floor_ms": floor * 1e3,
        "products": [asdict(t) for t in timings],
        "steps": found,
    }
    write_whole(out, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
