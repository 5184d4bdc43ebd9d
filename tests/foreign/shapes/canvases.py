"""Canvases that grow, that blocks do not divide, and that are edited or filled in."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.foreign.shapes.common import (
    BEGIN,
    BLOCK,
    PROMPT,
    Shape,
    at,
    cached,
    canvas_of,
    pick,
    plain,
    spans,
)
from tests.foreign.shapes.conventions import ByLength, ByPositionIds, Static
from tests.foreign.shapes.network import MASK, Cache, Plain


def does_not_divide() -> Shape:
    net = Plain()
    blocks = ((6, 11), (11, 16), (16, 18))
    return Shape(net, net.model, lambda: plain(net, canvas_of(), 5), blocks=blocks, block_length=5)


def does_not_divide_cached() -> Shape:
    net, caches = ByPositionIds(), [Cache()]

    def call(x: Tensor, rows: slice) -> Tensor:
        return net(x[:, rows], position_ids=at(rows)[None], data_caches=caches)

    blocks = ((6, 11), (11, 16), (16, 18))
    return Shape(
        net, net.model, lambda: cached(call, canvas_of(), 5), blocks=blocks, block_length=5
    )


def sub_blocks() -> Shape:
    """Blocks of six; the rows of a call are those of a half of it."""
    net, caches = ByPositionIds(), [Cache()]

    def loop() -> Tensor:
        x = canvas_of()
        with torch.no_grad():
            for block in spans(size=6):
                net(x, position_ids=at(slice(0, x.shape[1]))[None], data_caches=caches)
                for rows in spans(block.start, block.stop, 3):
                    while (x[:, rows] == MASK).any():
                        logits = net(x[:, rows], position_ids=at(rows)[None], data_caches=caches)
                        token, chosen = pick(logits, x[:, rows])
                        x[:, rows] = torch.where(chosen, token, x[:, rows])
        return x

    return Shape(net, net.model, loop, blocks=((6, 12), (12, 18)), block_length=6)


def grown() -> Shape:
    """A block of masks is put after the canvas when the one before is done."""
    net = Plain()

    def loop() -> Tensor:
        x = PROMPT
        with torch.no_grad():
            for rows in spans():
                x = torch.cat([x, x.new_full((1, BLOCK), MASK)], dim=1)
                while (x[:, rows] == MASK).any():
                    token, chosen = pick(net(x)[:, rows], x[:, rows])
                    x[:, rows][chosen] = token[chosen]
        return x

    return Shape(net, net.model, loop)


def grown_in_the_cache() -> Shape:
    """The prompt is computed once; each block comes as rows of its own, and is stored at last."""
    net, past = ByPositionIds(), Cache()

    def call(ids: Tensor, start: int) -> Tensor:
        where = torch.arange(start, start + ids.shape[1])[None]
        return net(ids, position_ids=where, data_caches=[past])

    def loop() -> Tensor:
        done = PROMPT
        with torch.no_grad():
            call(done, 0)
            for _ in spans():
                block = torch.full((1, BLOCK), MASK)
                while (block == MASK).any():
                    token, chosen = pick(call(block, done.shape[1]), block)
                    block = torch.where(chosen, token, block)
                call(block, done.shape[1])
                done = torch.cat([done, block], dim=1)
        return done

    return Shape(net, net.model, loop)


def counted_by_the_cache() -> Shape:
    """Left to right, one token a call: a cache that knows its length is all that tells."""
    net = ByLength()

    def loop() -> Tensor:
        x, past = canvas_of(), Static()
        with torch.no_grad():
            net(x[:, :BEGIN], past_key_values=past)
            for rows in spans():
                block = x[:, rows].clone()
                while (block == MASK).any():
                    token, chosen = pick(net(block, past_key_values=past), block)
                    past.length -= BLOCK
                    block = torch.where(chosen, token, block)
                net(block, past_key_values=past)
                x[:, rows] = block
        return x

    return Shape(net, net.model, loop)


def infilled() -> Shape:
    """Masks in the prompt are filled with the first block."""
    net = Plain()
    prompt = PROMPT.clone()
    prompt[0, 2] = prompt[0, 4] = MASK

    def loop() -> Tensor:
        x = canvas_of(prompt)
        with torch.no_grad():
            for rows in spans():
                while (x[:, : rows.stop] == MASK).any():
                    token, chosen = pick(net(x)[:, : rows.stop], x[:, : rows.stop])
                    x[:, : rows.stop][chosen] = token[chosen]
        return x

    blocks = ((2, 10), (10, 14), (14, 18))
    return Shape(net, net.model, loop, prompts=(2,), blocks=blocks)


def re_masked() -> Shape:
    """Each step takes back the least sure token of the block, until all is filled."""
    net = Plain()

    def loop() -> Tensor:
        x = canvas_of()
        with torch.no_grad():
            for rows in spans():
                for left in (3, 1, 2, 0):
                    logits = net(x)[:, rows]
                    token, _ = pick(logits, x[:, rows])
                    sure = logits.softmax(-1).amax(-1)
                    block = torch.where(x[:, rows] == MASK, token, x[:, rows])
                    worst = sure.topk(left, dim=1, largest=False).indices
                    x[:, rows] = block.scatter(1, worst, MASK)
        return x

    return Shape(net, net.model, loop, edits=True)


def replaced() -> Shape:
    """A token that was committed is replaced in the next step."""
    net = Plain()

    def loop() -> Tensor:
        x = canvas_of()
        with torch.no_grad():
            for rows in spans():
                while (x[:, rows] == MASK).any():
                    token, chosen = pick(net(x)[:, rows], x[:, rows])
                    x[:, rows] = torch.where(chosen, token, x[:, rows])
                    x[:, rows.start] = (x[:, rows.start] + 1) % 30
        return x

    return Shape(net, net.model, loop, edits=True)
