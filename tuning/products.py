"""The products of a model's layers with their epilogues: by our kernels, the library, exactly.

Shape letters: N rows, K inner width, O outputs, D width.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from skipstone.models.base import ModelConfig
from skipstone.models.shapes import LLADA_8B
from skipstone.ops.model import triton_linear, triton_rows
from skipstone.ops.model.triton_linear import Config

WIDTH = LLADA_8B.width


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Weights [O, K] of a model; all but the head are there once a layer."""
    width, mlp = config.width, config.mlp_width
    return {
        "qkv": (config.query_width + config.kv_width, width),
        "attn_out": (width, config.query_width),
        "gate_up": (2 * mlp, width),
        "down": (width, mlp),
        "head": (config.vocab_size, width),
    }


PRODUCTS = tuple(shapes_of(LLADA_8B))
"""Names of the products of a layer, and of the head."""


EPS = LLADA_8B.norm_eps


T = TypeVar("T")


Weights = dict[str, list[Tensor]]


@dataclass(frozen=True)
class Inputs:
    """What a product and its epilogue read, beside the weight."""

    x_NK: Tensor
    stream_ND: Tensor
    norm_D: Tensor


def inputs(weight_OK: Tensor, rows: int) -> Inputs:
    """Random rows for a product with this weight."""
    outputs, width = weight_OK.shape
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


def alike(name: str, weight_OK: Tensor) -> bool:
    """Whether a row is computed bit for bit alike, however many are beside it."""
    whole = inputs(weight_OK, 64)
    out_NO = few_rows(name, whole, weight_OK, None)
    parts = (Inputs(whole.x_NK[:n], whole.stream_ND[:n], whole.norm_D) for n in (1, 8, 32))
    outs = [few_rows(name, part, weight_OK, None) for part in parts]
    return all(torch.equal(out, out_NO[: len(out)]) for out in outs)


def random_weights(config: ModelConfig = LLADA_8B) -> Weights:
    """All weights of a model but the embedding."""
    return {
        name: [
            torch.empty(shape, device="cuda", dtype=torch.bfloat16).normal_(0.0, 0.02)
            for _ in range(1 if name == "head" else config.num_layers)
        ]
        for name, shape in shapes_of(config).items()
    }


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
