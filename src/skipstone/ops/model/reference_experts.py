"""Reference of mixtures of experts: which experts a row goes to, and what they give together.

Shape letters: N packed rows, D model width, X experts, K experts of a row, M width of an expert, P
pairs of a row and one of its experts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from skipstone.ops.model.reference import swiglu

# What published code adds to a sum that it divides by.
LEAST_SUM = 1e-20


@dataclass(frozen=True)
class Router:
    """How experts are chosen and weighed."""

    top_k: int
    """K, experts of a row."""
    scoring: Literal["softmax", "sigmoid"]
    """What makes scores of the router's logits."""
    normalised: bool = False
    """Whether the weights of a row are divided by their sum."""
    scale: float = 1.0
    """What weights are multiplied by in the end."""
    groups: int = 1
    """Groups of neighbouring experts, of equal size. A group is as good as its two best experts."""
    top_groups: int = 1
    """How many groups a row may choose from."""


class Chosen(NamedTuple):
    """The experts of each row, the best first."""

    expert_NK: Tensor
    """int32; X, which is no expert, for rows that count for nothing."""
    weight_NK: Tensor
    """What each contributes; float32, or float64 where states are. 0 for those rows."""


def router_logits(x_ND: Tensor, gate_XD: Tensor) -> Tensor:
    """Logits [N, X] in float32 or better: in half precision, near experts would tie."""
    wide = torch.promote_types(x_ND.dtype, torch.float32)
    return F.linear(x_ND.to(wide), gate_XD.to(wide))


def choose(
    logits_NX: Tensor, bias_X: Tensor | None, router: Router, counts_N: Tensor | None = None
) -> Chosen:
    """Choose experts; of equals the one that comes first.

    Args:
        logits_NX: of the router.
        bias_X: added to the scores for choosing only; weights are without it.
        router: the rule.
        counts_N: bool, rows whose states count: no expert is read for the others; None: all.
    """
    softmax = router.scoring == "softmax"
    score_NX = logits_NX.softmax(-1) if softmax else logits_NX.sigmoid()
    judged_NX = score_NX if bias_X is None else score_NX + bias_X
    if router.top_groups < router.groups:
        judged_NX = _of_best_groups(judged_NX, router)
    expert_NK = _best(judged_NX, router.top_k)
    weight_NK = score_NX.gather(-1, expert_NK)
    if router.normalised:
        weight_NK = weight_NK / (weight_NK.sum(-1, keepdim=True) + LEAST_SUM)
    expert_NK, weight_NK = expert_NK.int(), weight_NK * router.scale
    if counts_N is None:
        return Chosen(expert_NK, weight_NK)
    out_N1 = ~counts_N[:, None]
    none = logits_NX.shape[1]
    return Chosen(expert_NK.masked_fill(out_N1, none), weight_NK.masked_fill(out_N1, 0.0))


def _of_best_groups(judged_NX: Tensor, router: Router) -> Tensor:
    """The same, with all experts of other groups out of reach."""
    members_NGS = judged_NX.unflatten(-1, (router.groups, -1))
    value_NG = members_NGS.topk(2, dim=-1).values.sum(-1)
    open_NG = torch.zeros_like(value_NG, dtype=torch.bool)
    open_NG.scatter_(-1, _best(value_NG, router.top_groups), True)
    return members_NGS.masked_fill(~open_NG[..., None], -torch.inf).flatten(-2)


def _best(values: Tensor, count: int) -> Tensor:
    """Indices of the largest values, in order; of equals the first."""
    return values.sort(dim=-1, descending=True, stable=True).indices[..., :count]


def experts_added(
    x_ND: Tensor, normed_ND: Tensor, chosen: Chosen, gate_up_XMD: Tensor, down_XDM: Tensor
) -> Tensor:
    """Add what the experts give to the residual stream: [N, D].

    A row's sum is that of its own experts in their order, whatever rows are beside it.

    Args:
        x_ND: the residual stream.
        normed_ND: what experts read.
        chosen: the experts of each row.
        gate_up_XMD: gates and ups of all experts, [X, 2 M, D].
        down_XDM: the products that follow.
    """
    expert_NK, weight_NK = chosen
    out_NKD = normed_ND.new_zeros(*expert_NK.shape, normed_ND.shape[1])
    for expert in _hit(expert_NK, len(down_XDM)):
        of_NK = expert_NK == expert
        weights = gate_up_XMD[expert], down_XDM[expert]
        if expert_NK.is_cuda:
            # The host may not ask which rows these are: all are computed, and few are taken.
            out_NKD = torch.where(of_NK[..., None], _expert(normed_ND, *weights)[:, None], out_NKD)
        else:
            row_P, slot_P = of_NK.nonzero(as_tuple=True)
            out_NKD[row_P, slot_P] = _expert(normed_ND[row_P], *weights)
    sum_ND = torch.zeros_like(x_ND, dtype=weight_NK.dtype)
    for slot in range(expert_NK.shape[1]):
        sum_ND += weight_NK[:, slot, None] * out_NKD[:, slot]
    return x_ND + sum_ND.to(x_ND.dtype)


def _hit(expert_NK: Tensor, num_experts: int) -> Iterable[int]:
    """Experts that have rows, as far as the host may know."""
    if expert_NK.is_cuda:
        return range(num_experts)
    return expert_NK[expert_NK < num_experts].unique().tolist()


def _expert(x_PD: Tensor, gate_up_MD: Tensor, down_DM: Tensor) -> Tensor:
    return F.linear(swiglu(F.linear(x_PD, gate_up_MD)), down_DM)
