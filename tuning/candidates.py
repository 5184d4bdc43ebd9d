"""The cuts that are tried for each product of few rows, and their compilation in many processes."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context

import torch

from skipstone.ops.model.triton_linear import Config
from skipstone.ops.triton_early import served_early
from tuning.products import few_rows, inputs

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
    Config(32, 256, 4),
    Config(32, 256, 4, tma=True),
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
    Config(64, 64, 8, tma=True),
    Config(128, 64, 4, num_warps=8, tma=True),
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
    Config(64, 128, 6, splits=2, tma=True),
    Config(64, 256, 4, splits=4, tma=True),
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
class Variant:
    """One way for our kernels to compute a product."""

    product: str
    shape: tuple[int, int]
    """Of the weight."""
    rows: int
    config: Config
    early: bool


def variants(name: str, shape: tuple[int, int], rows: int) -> list[Variant]:
    """All that are tried; late starts only with 32 rows, to save time."""
    configs = dict.fromkeys(fitting(name, c, rows) for c in CANDIDATES[name])
    ways = (False, True) if rows == 32 else (True,)
    return [Variant(name, shape, rows, config, early) for early in ways for config in configs]


def compiled(v: Variant) -> str:
    """Compile a variant in a process of its own; why it fails, or nothing."""
    try:
        weight_OK = torch.zeros(v.shape, device="cuda", dtype=torch.bfloat16)
        with served_early(v.early):
            few_rows(v.product, inputs(weight_OK, v.rows), weight_OK, v.config)
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
