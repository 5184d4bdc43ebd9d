"""Rows that are stated under all names, and rows that nothing states but the way of their ids."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.foreign.shapes.common import BLOCK, Shape, at, cached, canvas_of, pick, spans
from tests.foreign.shapes.conventions import (
    ByCachePosition,
    ByItself,
    ByMask,
    ByPositionIds,
    BySlice,
    ByStart,
    Store,
)
from tests.foreign.shapes.network import MASK, Cache, Plain


def position_ids() -> Shape:
    net, caches = ByPositionIds(), [Cache()]

    def call(x: Tensor, rows: slice) -> Tensor:
        return net(x[:, rows], position_ids=at(rows)[None], data_caches=caches)

    return Shape(net, net.model, lambda: cached(call, canvas_of()))


def cache_position() -> Shape:
    net, kv = ByCachePosition(), Cache()

    def call(x: Tensor, rows: slice) -> Tensor:
        ids = torch.from_numpy(x[:, rows].numpy().copy())  # nobody can follow this
        return net(ids, kv, cache_position=at(rows))

    return Shape(net, net.model, lambda: cached(call, canvas_of()))


def start_index() -> Shape:
    net, past = ByStart(), Store()

    def call(x: Tensor, rows: slice) -> Tensor:
        ids = torch.from_numpy(x[:, rows].numpy().copy())
        return net(ids, rows.start, past=past)

    return Shape(net, net.model, lambda: cached(call, canvas_of()))


def as_slice() -> Shape:
    net = BySlice()
    cache: Cache | None = None

    def call(x: Tensor, rows: slice) -> Tensor:
        nonlocal cache
        ids = torch.from_numpy(x[:, rows].numpy().copy())
        logits, cache = net(ids, rows, cache)
        return logits

    return Shape(net, net.model, lambda: cached(call, canvas_of()))


def bool_mask() -> Shape:
    net, past = ByMask(), Cache()

    def call(x: Tensor, rows: slice) -> Tensor:
        marked = torch.zeros_like(x, dtype=torch.bool)
        marked[:, rows] = True
        ids = x[marked].view(1, -1)
        return net(ids, past_key_values=past, replace_position=marked)

    return Shape(net, net.model, lambda: cached(call, canvas_of()))


def two_ends() -> Shape:
    net, past = ByMask(), Cache()

    def call(x: Tensor, rows: slice) -> Tensor:
        ids = torch.from_numpy(x[:, rows].numpy().copy())
        return net(ids, past, replace_position=(rows.start, rows.stop))

    return Shape(net, net.model, lambda: cached(call, canvas_of()))


# Rows that nothing states: the ids alone tell, by the way that they came.


def _by_itself(take: Callable[[Tensor, slice], Tensor]) -> Shape:
    net = ByItself()
    net.cache = {}

    def call(x: Tensor, rows: slice) -> Tensor:
        net.rows = at(rows)
        whole = rows.stop - rows.start == x.shape[1]
        return net(x if whole else take(x, rows))

    return Shape(net, net.model, lambda: cached(call, canvas_of()))


def view() -> Shape:
    return _by_itself(lambda x, rows: x[:, rows])


def cloned() -> Shape:
    return _by_itself(lambda x, rows: x[:, rows].clone())


def gathered() -> Shape:
    return _by_itself(lambda x, rows: torch.gather(x, 1, at(rows)[None]))


def selected() -> Shape:
    return _by_itself(lambda x, rows: x.index_select(1, at(rows)))


def masked() -> Shape:
    def take(x: Tensor, rows: slice) -> Tensor:
        where = (torch.arange(x.shape[1]) >= rows.start) & (torch.arange(x.shape[1]) < rows.stop)
        return x[:, where]

    return _by_itself(take)


def split() -> Shape:
    return _by_itself(
        lambda x, rows: x.split([rows.start, BLOCK, x.shape[1] - rows.stop], dim=1)[1].contiguous()
    )


def joined() -> Shape:
    return _by_itself(
        lambda x, rows: torch.cat([x[:, j : j + 1] for j in range(rows.start, rows.stop)], dim=1)
    )


def rolled() -> Shape:
    return _by_itself(lambda x, rows: torch.roll(x, -rows.start, 1)[:, : rows.stop - rows.start])


def indexed() -> Shape:
    return _by_itself(lambda x, rows: x[torch.arange(1)[:, None], at(rows)[None]])


def taken() -> Shape:
    return _by_itself(lambda x, rows: torch.take_along_dim(x, at(rows)[None], 1))


def last_by_gather() -> Shape:
    """Every canvas, the last one too, is gathered from the one before and the tokens."""
    net = Plain()

    def loop() -> Tensor:
        x = canvas_of()
        with torch.no_grad():
            for rows in spans():
                while (x[:, rows] == MASK).any():
                    inside = torch.zeros_like(x, dtype=torch.bool)
                    inside[:, rows] = True
                    token, chosen = pick(net(x), torch.where(inside, x, 0))
                    both = torch.stack([x, token], dim=-1)
                    x = torch.gather(both, -1, chosen.long().unsqueeze(-1)).squeeze(-1)
        return x

    return Shape(net, net.model, loop)


def unseen_canvas() -> Shape:
    """The canvas lives in numpy; torch sees it in the calls alone."""
    net = Plain()

    def loop() -> Tensor:
        x = canvas_of().numpy()
        with torch.no_grad():
            for rows in spans():
                while (x[:, rows] == MASK).any():
                    token, chosen = pick(
                        net(torch.from_numpy(x))[:, rows], torch.from_numpy(x[:, rows])
                    )
                    x[:, rows][chosen.numpy()] = token.numpy()[chosen.numpy()]
        return torch.from_numpy(x)

    return Shape(net, net.model, loop)
