"""Attention of packed rows at LLaDA-8B's heads: PyTorch's against the kernel, cut up in many ways.

    git show cacc1fb:src/skipstone/ops/model/triton_rows.py > /tmp/rows_before.py
    python -m benchmarks.attend --rows-before /tmp/rows_before.py -o out.json

Every variant is captured over the K/V of 16 layers, so that none is found in a cache, and compared
with float64. With ``--rows-before``, the module as it was when rotation and the write of K/V were
two kernels, that pair is timed too.

Shape letters as in ``skipstone.ops.model.reference``; S layers.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType

import click
import torch
from torch import Tensor

from skipstone.ops.model import attention_work, reference, triton_attend, triton_rows
from skipstone.ops.model.attention_work import Tiles
from skipstone.outputs import write_whole
from skipstone.rows import Rows

HEADS, WIDTH, LAYERS, REPLAYS = 32, 128, 16, 10
_WORKERS = 8
_BANDWIDTH = 2.97e12

Attend = Callable[[Tensor, Tensor, Tensor, Rows, Tensor | None], Tensor]


@dataclass(frozen=True)
class Case:
    """One shape of a step."""

    batch: int
    rows: int
    """Rows of each request; of the largest one if they are ragged."""
    context: int
    ragged: bool = False
    """Request ``b`` of B has ``rows * (b + 1) / B`` rows."""
    padded: bool = False
    """Up to a quarter of a request's positions is hidden."""
    heads: int = HEADS
    kv_heads: int = HEADS

    @property
    def name(self) -> str:
        """As in the table."""
        marks = "~" * self.ragged + "+hidden" * self.padded
        heads = "" if self.kv_heads == HEADS else f", heads {self.heads}/{self.kv_heads}"
        return f"{self.batch} x {self.rows}{marks} of {self.context}{heads}"

    @property
    def spans(self) -> list[tuple[int, int, int]]:
        """Rows in the middle of each canvas."""
        start = (self.context - self.rows) // 2
        part = [(b + 1) / self.batch if self.ragged else 1.0 for b in range(self.batch)]
        return [(b, start, start + int(self.rows * p)) for b, p in enumerate(part) if self.rows * p]

    def packed(self, device: torch.device) -> Rows:
        """Rows that see the whole context."""
        lengths = [self.context] * len(self.spans)
        bases = [request * self.context for request, _, _ in self.spans]
        return Rows.spans(self.spans, device, lengths=lengths, bases=bases)

    @property
    def least_us(self) -> float:
        """Reading K/V once."""
        return 4 * self.batch * self.context * self.kv_heads * WIDTH / _BANDWIDTH * 1e6


CASES = (
    Case(1, 32, 147),
    Case(1, 32, 512),
    Case(1, 32, 1280),
    Case(8, 64, 1256),
    Case(32, 32, 512),
    Case(32, 32, 512, ragged=True),
    Case(32, 8, 512),
    Case(64, 32, 512),
    Case(8, 512, 512, padded=True),
    Case(1, 1280, 1280),
    Case(1, 33, 512, heads=28, kv_heads=4),
    Case(1, 33, 1280, heads=28, kv_heads=4),
    Case(1, 32, 512, heads=32, kv_heads=8),
    Case(1, 32, 1280, heads=32, kv_heads=8),
)


@dataclass(frozen=True)
class Timing:
    """One variant at one shape."""

    case: str
    variant: str
    us: float = 0.0
    """Median of a layer."""
    error: float = 0.0
    """Largest distance from float64."""
    failure: str = ""
    least_us: float = 0.0
    """Reading K/V once at 2.97 TB/s."""

    @property
    def line(self) -> str:
        """For reading along."""
        found = self.failure[:120] or f"{self.us:8.2f} us  error {self.error:.1e}"
        return f"{self.case:24} {self.variant:32} {found}"


def chosen(case: Case) -> Tiles:
    """What ``attend`` takes by itself."""
    rows = case.packed(torch.device("cpu"))
    far = attention_work.splits(rows)
    group = triton_attend.group_of(case.heads, case.kv_heads)
    shared = case.heads > case.kv_heads
    shape = (rows.num_rows, case.heads, group, WIDTH, 2)
    return attention_work.tiles_for(*shape, shared=shared, far=far)


def variants(case: Case) -> list[Tiles]:
    """Ways to cut up one shape; the first is the one that is taken."""
    first = chosen(case)
    if case.rows > 64:
        others = [
            (128, 128, 8, 2),
            (128, 64, 8, 3),
            (64, 32, 4, 3),
            (64, 128, 4, 2),
            (128, 64, 8, 2),
            (128, 32, 8, 4),
        ]
        return [first, *(Tiles(s, k, 1, warps, stages) for s, k, warps, stages in others)]
    changes = [
        *(first._replace(stages=stages) for stages in (2, 3, 4)),
        *(first._replace(keys=keys) for keys in (32, 64)),
        first._replace(keys=128, stages=2),
        first._replace(warps=8),
        first._replace(warps=2),
        first._replace(slots=16 if first.slots > 16 else 32),
    ]
    if case.kv_heads < case.heads:
        changes += [first._replace(slots=64, parts=parts) for parts in (4, 5, 8, 10)]
        changes += [first._replace(slots=128, parts=parts, warps=8) for parts in (4, 8, 10)]
    most = case.context // 64 if case.batch == 1 else 2
    splits = [p for p in (1, 2, 3, 4, 5, 8, 10, 20) if p <= most and p != first.parts]
    return list(dict.fromkeys([first, *changes, *(first._replace(parts=p) for p in splits)]))


def inputs(case: Case, layers: int) -> tuple[Tensor, Tensor, Rows, Tensor | None]:
    """Queries [N, H, E], K/V [2, S, C, U, E], rows and what is visible."""
    device = torch.device("cuda")
    rows = case.packed(device).own()
    like = {"dtype": torch.bfloat16, "device": device}
    q_NHE = torch.randn(rows.num_rows, case.heads, WIDTH, **like)
    kv = torch.empty(2, layers, case.batch * case.context, case.kv_heads, WIDTH, **like)
    for part in kv.flatten(0, 1):
        part.normal_()
    visible_BL = None
    if case.padded:
        hidden_B1 = torch.arange(case.batch, device=device)[:, None] * case.context // 4
        length_B1 = case.context - hidden_B1 // case.batch
        visible_BL = torch.arange(case.context, device=device) < length_B1
    return q_NHE, kv, rows, visible_BL


def cut(tiles: Tiles) -> Attend:
    """The kernel with one way to cut up the work."""
    return lambda q, key, value, rows, visible: triton_attend.attend(
        q, key, value, rows, visible, tiles=tiles
    )


def compiled(task: tuple[Case, Tiles]) -> str:
    """Compile and run one variant, in a process of its own; says what failed."""
    case, tiles = task
    try:
        q_NHE, kv, rows, visible_BL = inputs(case, 1)
        cut(tiles)(q_NHE, kv[0, 0], kv[1, 0], rows, visible_BL)
        torch.cuda.synchronize()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def replayed(work: Callable[[], object]) -> float:
    """Median seconds of a replay of some captured work."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    times = list[float]()
    for i in range(REPLAYS + 2):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in "ab")
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize()
        if i >= 2:
            times.append(start.elapsed_time(stop) / 1e3)
    return statistics.median(times)


def timed(case: Case) -> Iterator[Timing]:
    """All variants of one case."""
    q_NHE, kv, rows, visible_BL = inputs(case, LAYERS)
    key_CUE, value_CUE = kv[:, 0].double()
    exact = reference.attend(q_NHE.double(), key_CUE, value_CUE, rows, visible_BL)
    del key_CUE, value_CUE
    works: dict[str, Attend] = {"torch": reference.attend}
    works |= {described(tiles): cut(tiles) for tiles in variants(case)}
    for name, attend in works.items():

        def layers(attend: Attend = attend) -> None:
            for layer in range(LAYERS):
                attend(q_NHE, kv[0, layer], kv[1, layer], rows, visible_BL)

        try:
            found = attend(q_NHE, kv[0, 0], kv[1, 0], rows, visible_BL)
            error = (found.double() - exact).abs().max().item()
            us = replayed(layers) / LAYERS * 1e6
            yield Timing(case.name, name, us, error, least_us=case.least_us)
        except Exception as error:
            yield Timing(case.name, name, failure=f"{type(error).__name__}: {error}")


def described(tiles: Tiles) -> str:
    """A name that can be read in a table."""
    slots, keys, parts, warps, stages, _ = tiles
    return f"{slots} slots {keys} keys /{parts} w{warps} s{stages}"


def module_at(path: Path) -> ModuleType:
    """A module from a file."""
    spec = importlib.util.spec_from_file_location("rows_before", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(num_rows: int, before: ModuleType | None) -> Iterator[Timing]:
    """Rotation and write of K/V: one kernel, with some rows kept from writing, and the old pair."""
    device = torch.device("cuda")
    requests = range(num_rows // 32)
    spans, bases = [(b, 32, 64) for b in requests], [128 * b for b in requests]
    rows = Rows.spans(spans, device, lengths=[128] * len(requests), bases=bases).own()
    some = replace(rows, writes_N=torch.arange(num_rows, device=device) % 4 > 0).own()
    shape = (LAYERS, 2, 128 * len(requests), HEADS, WIDTH)
    stores = torch.zeros(shape, dtype=torch.bfloat16, device=device)
    qkv_NHE = torch.randn(num_rows, 3 * HEADS, WIDTH, device=device).bfloat16()
    angles_2NE = reference.rotary_tables(128, WIDTH, 5e5, device)[:, rows.position_N]

    def old(key_CUE: Tensor, value_CUE: Tensor) -> None:
        assert before is not None
        turned = before.rotate(qkv_NHE[:, : 2 * HEADS], angles_2NE)
        before.write_rows(key_CUE, value_CUE, rows, turned[:, HEADS:], qkv_NHE[:, 2 * HEADS :])

    fused = triton_rows.rotate_and_write
    works: dict[str, Callable[[Tensor, Tensor], object]] = {
        "rotate_and_write": lambda k, v: fused(qkv_NHE, angles_2NE, k, v, rows),
        "rotate_and_write, some": lambda k, v: fused(qkv_NHE, angles_2NE, k, v, some),
    }
    if before is not None:
        works["rotate, write"] = old
    for name, work in works.items():

        def layers(work: Callable[[Tensor, Tensor], object] = work) -> None:
            for key_CUE, value_CUE in stores:
                work(key_CUE, value_CUE)

        try:
            yield Timing(f"{num_rows} rows", name, replayed(layers) / LAYERS * 1e6)
        except Exception as error:
            yield Timing(f"{num_rows} rows", name, failure=f"{type(error).__name__}: {error}")


def table(timings: Sequence[Timing]) -> list[str]:
    """One line a case: PyTorch, what is taken, and the best."""
    lines = [f"{'us a layer':24} {'K/V once':>8} {'torch':>8} {'taken':>8} {'best':>8}"]
    for case in CASES:
        if not any(t.case == case.name for t in timings):
            continue
        mine = {t.variant: t for t in timings if t.case == case.name and not t.failure}
        kernels = [t for name, t in mine.items() if name != "torch"]
        if not kernels:
            lines.append(f"{case.name:24} no kernel ran")
            continue
        nothing = Timing(case.name, "", torch.nan)
        plain, taken = (mine.get(n, nothing) for n in ("torch", described(chosen(case))))
        best = min(kernels, key=lambda t: t.us)
        lines.append(
            f"{case.name:24} {case.least_us:8.2f} {plain.us:8.2f} {taken.us:8.2f} {best.us:8.2f}"
            f"  {best.variant}"
        )
    return lines


def run(cases: Sequence[Case], before: ModuleType | None) -> Iterator[Timing]:
    """Everything, in turn."""
    for num_rows in (32, 1024):
        yield from written(num_rows, before)
    for case in cases:
        torch.cuda.empty_cache()
        try:
            yield from timed(case)
        except Exception as error:
            yield Timing(case.name, "all", failure=f"{type(error).__name__}: {error}")


@click.command()
@click.option("--rows-before", type=click.Path(path_type=Path), help="triton_rows.py of old.")
@click.option("--grouped", is_flag=True, help="Only cases whose heads share keys.")
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(rows_before: Path | None, out: Path | None, *, grouped: bool) -> None:
    """Time attention, and the write before it."""
    started = time.perf_counter()
    cases = [case for case in CASES if case.kv_heads < case.heads or not grouped]
    tasks = [(case, tiles) for case in cases for tiles in variants(case)]
    context = multiprocessing.get_context("spawn")
    failures = list[str]()
    try:
        with ProcessPoolExecutor(_WORKERS, mp_context=context) as pool:
            failures += [text for text in pool.map(compiled, tasks) if text]
    except BrokenProcessPool as error:
        failures.append(str(error))
    print(f"{len(tasks)} variants compiled in {time.perf_counter() - started:.0f} s", flush=True)
    timings = list[Timing]()
    with torch.inference_mode():
        for timing in run(cases, None if rows_before is None else module_at(rows_before)):
            print(timing.line, flush=True)
            timings.append(timing)
    print(*(t.line for t in timings if "rows" in t.case), *table(timings), sep="\n")
    if out is not None:
        facts = {
            "command": "python -m benchmarks.attend",
            "card": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "failures": failures,
        }
        write_whole(
            out, json.dumps({**facts, "timings": [asdict(t) for t in timings]}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
