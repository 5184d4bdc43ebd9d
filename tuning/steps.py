"""Whole steps of 32 rows, since the cut that is best alone need not be best in a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from skipstone.models.shapes import LLADA_8B
from skipstone.ops.model import reference, triton_attend, triton_linear, triton_rows
from skipstone.ops.triton_early import served_early
from skipstone.rows import Rows
from tuning.products import EPS, PRODUCTS, WIDTH, Weights, captured, seconds
from tuning.sweep import EARLY, FEW, Configs, Timing, fastest


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
        for name, rank in product(PRODUCTS, (1, 2, 3)):
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
