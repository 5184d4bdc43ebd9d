"""Attention written out, in the ways that published code and tutorials have.

Shape letters: B batch, H heads, L rows, K keys, W width of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.foreign.attending_net import Attend

_LOWEST = torch.finfo(torch.float32).min


def _added(q: Tensor, k: Tensor, seen: Tensor | None) -> Tensor:
    """A mask to add, [1, 1, L, K]."""
    shape = 1, 1, q.shape[-2], k.shape[-2]
    if seen is None:
        return torch.zeros(shape)
    return torch.zeros(shape).masked_fill(~seen, _LOWEST)


def hugging_face(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """``eager_attention_forward``."""
    weights = torch.matmul(q, k.transpose(2, 3)) * scale
    weights = weights + _added(q, k, seen)[:, :, :, : k.shape[-2]]
    weights = F.softmax(weights, dim=-1, dtype=torch.float32).to(q.dtype)
    weights = F.dropout(weights, p=0.0, training=True)
    return torch.matmul(weights, v)


def divided(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """As Dream's file divides, and hides with -inf."""
    weights = q @ k.transpose(-2, -1) / (1 / scale)
    if seen is not None:
        weights = weights.masked_fill(seen.logical_not(), float("-inf"))
    return weights.softmax(dim=-1) @ v


def in_place(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """Nothing new is allocated."""
    weights = q @ k.mT
    weights *= scale
    weights += _added(q, k, seen)
    weights = weights.float()
    return torch.matmul(nn.Softmax(dim=-1)(weights).type_as(q), v)


def einsum(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """By the names of axes."""
    weights = torch.einsum("bhid,bhjd->bhij", q, k) * scale
    if seen is not None:
        weights = torch.where(seen, weights, torch.tensor(-1e9))
    return torch.einsum("bhij,bhjd->bhid", weights.softmax(-1), v)


def rows_first(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """Heads behind rows, and the axes of the scores in an order of their own."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    weights = scale * torch.einsum("...qhd,...khd->...qhk", q, k)
    if seen is not None:
        weights = weights + torch.where(seen, 0.0, -torch.inf)[:, None]
    mixed = torch.einsum("bqhk,bkhd->bqhd", torch.softmax(weights, -1), v)
    return mixed.transpose(1, 2)


def grouped(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """Heads that share keys beside each other, keys never repeated."""
    k, v = k[:, ::2], v[:, ::2]
    q = q.unflatten(1, (k.shape[1], -1))
    weights = torch.einsum("bgrqd,bgkd->bgrqk", q * scale, k)
    weights = weights + _added(q, k, seen)[:, None]
    return torch.einsum("bgrqk,bgkd->bgrqd", weights.softmax(-1), v).flatten(1, 2)


def broadcast(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """The same with products of matrices."""
    k, v = k[:, ::2, None], v[:, ::2, None]
    weights = torch.matmul(q.unflatten(1, (k.shape[1], -1)), k.transpose(-1, -2)).mul(scale)
    if seen is not None:
        weights[:, :, :, ~seen] = -torch.inf
    return (torch.softmax(weights, dim=-1, dtype=torch.float32) @ v).flatten(1, 2)


def stacked(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """Samples and heads as one axis, mask and scale in the product: as BLOOM and OPT have it."""
    shape = *q.shape[:3], k.shape[2]
    mask = _added(q, k, seen).expand(shape).flatten(0, 1)
    weights = torch.baddbmm(
        mask, q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), beta=1.0, alpha=scale
    )
    weights = weights.view(shape).softmax(-1).view(-1, *shape[2:])
    return torch.bmm(weights, v.flatten(0, 1)).view(q.shape)


def turned(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """Keys before rows."""
    weights = k @ q.transpose(-1, -2) * scale
    weights = weights + _added(q, k, seen).transpose(-1, -2)
    return (v.transpose(-1, -2) @ weights.softmax(dim=-2)).transpose(-1, -2)


def own_softmax(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """The softmax written out, too."""
    weights = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(1 / scale**2)
    weights = weights + _added(q, k, seen)
    powers = torch.exp(weights - weights.max(dim=-1, keepdim=True)[0])
    return (powers / powers.sum(-1, keepdim=True)) @ v


def by_log(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """The softmax by its logarithm."""
    weights = torch.matmul(q, k.transpose(-1, -2)) * torch.tensor(scale)
    if seen is not None:
        weights.masked_fill_(~seen, -torch.inf)
    return torch.exp(weights - torch.logsumexp(weights, -1, keepdim=True)) @ v


WRITTEN: dict[str, Attend] = {
    way.__name__: way
    for way in (
        hugging_face,
        divided,
        in_place,
        einsum,
        rows_first,
        grouped,
        broadcast,
        stacked,
        turned,
        own_softmax,
        by_log,
    )
}
