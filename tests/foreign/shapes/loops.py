"""Loops over one prompt, each a shape of code; all commit the surest masks of a block.

Shape letters: B batch, N rows of the call, L canvas length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tests.foreign.shapes.conventions import (
    ByCachePosition,
    ByEmbeddings,
    ByItself,
    ByLength,
    ByMask,
    ByPositionIds,
    BySlice,
    ByStart,
    Static,
    Store,
    Wrapped,
)
from tests.foreign.shapes.network import MASK, Body, Cache, Network

PROMPT = torch.tensor([[3, 1, 4, 1, 5, 9]])
BEGIN, BLOCK, NEW = 6, 4, 12
BLOCKS = ((6, 10), (10, 14), (14, 18))


@dataclass(frozen=True)
class Shape:
    """A loop, and what is true of it."""

    model: nn.Module
    """What is attached."""
    body: Body
    """What logs where the rows of each call really stand."""
    loop: Callable[[], Tensor]
    """Gives the last canvas [B, L]."""
    prompts: Sequence[int] = (BEGIN,)
    """Prompt length of each sample."""
    blocks: Sequence[tuple[int, int]] = BLOCKS
    """Of the first sample, in order."""
    block_length: int | None = BLOCK
    """What the loop is known to be given; None if nothing tells, so that commits have to."""
    twins: Callable[[int], bool] = lambda call: False
    """Calls that are no steps."""
    samples: slice = field(default_factory=lambda: slice(None))
    """The part of a call's batch that is decoded."""
    edits: bool = False
    """Whether tokens are taken back, so that masks are filled more than once."""


def canvas_of(prompt: Tensor = PROMPT, new: int = NEW) -> Tensor:
    """The prompt and masks."""
    return torch.cat([prompt, prompt.new_full((len(prompt), new), MASK)], dim=1)


def pick(logits: Tensor, ids: Tensor, count: int = 2) -> tuple[Tensor, Tensor]:
    """Tokens [B, N], and bool [B, N]: the ``count`` surest masks of each row of a batch."""
    logits = logits.clone()
    logits[..., MASK] = -torch.inf
    sure, token = logits.softmax(-1).max(-1)
    sure = torch.where(ids == MASK, sure, -1.0)
    chosen = torch.zeros_like(ids, dtype=torch.bool)
    chosen.scatter_(1, sure.topk(min(count, ids.shape[1]), dim=1).indices, True)
    return token, chosen & (ids == MASK)


def spans(begin: int = BEGIN, stop: int = BEGIN + NEW, size: int = BLOCK) -> Iterator[slice]:
    """The blocks."""
    for start in range(begin, stop, size):
        yield slice(start, min(start + size, stop))


Call = Callable[[Tensor, slice], Tensor]
"""Logits of the rows of a slice, or of all, out of the canvas."""


def cached(call: Call, x: Tensor, block_length: int = BLOCK, begin: int = BEGIN) -> Tensor:
    """A block starts with all rows and goes on with its own."""
    with torch.no_grad():
        for rows in spans(begin, x.shape[1], block_length):
            logits = call(x, slice(0, x.shape[1]))[:, rows]
            while (x[:, rows] == MASK).any():
                token, chosen = pick(logits, x[:, rows])
                x[:, rows] = torch.where(chosen, token, x[:, rows])
                if (x[:, rows] == MASK).any():
                    logits = call(x, rows)
    return x


def plain(net: Callable[[Tensor], Tensor], x: Tensor, block_length: int = BLOCK) -> Tensor:
    """Every step computes all rows; the canvas is made anew each time."""
    with torch.no_grad():
        for rows in spans(BEGIN, x.shape[1], block_length):
            while (x[:, rows] == MASK).any():
                logits = net(x)
                inside = torch.zeros_like(x, dtype=torch.bool)
                inside[:, rows] = True
                token, chosen = pick(logits, torch.where(inside, x, 0))
                x = torch.where(chosen, token, x)
    return x


def at(rows: slice) -> Tensor:
    """Positions [N]."""
    return torch.arange(rows.start, rows.stop)


# Positions that are stated, under all names.


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


def last_by_gather() -> Shape:
    """Every canvas, the last one too, is gathered from the one before and the tokens."""
    net = Network()

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
    net = Network()

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


# The canvas itself.


def does_not_divide() -> Shape:
    net = Network()
    blocks = ((6, 11), (11, 16), (16, 18))
    return Shape(net, net.model, lambda: plain(net, canvas_of(), 5), blocks=blocks, block_length=5)


def does_not_divide_cached() -> Shape:
    shape = position_ids()
    net, caches = shape.model, [Cache()]

    def call(x: Tensor, rows: slice) -> Tensor:
        return net(x[:, rows], position_ids=at(rows)[None], data_caches=caches)

    blocks = ((6, 11), (11, 16), (16, 18))
    return Shape(
        net, shape.body, lambda: cached(call, canvas_of(), 5), blocks=blocks, block_length=5
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
    net = Network()

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
    net = Network()
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
    net = Network()

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
    net = Network()

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


# Ways of calling.


def stars() -> Shape:
    inner = ByPositionIds()
    net, caches = Wrapped(inner), [Cache()]

    def call(x: Tensor, rows: slice) -> Tensor:
        return net(x[:, rows].clone(), data_caches=caches, position_ids=at(rows)[None])

    return Shape(net, inner.model, lambda: cached(call, canvas_of()))


def embeddings() -> Shape:
    net, past = ByEmbeddings(), Cache()

    def call(x: Tensor, rows: slice) -> Tensor:
        embeds = net.model.table(x[:, rows])
        return net(inputs_embeds=embeds, position_ids=at(rows)[None], past=past)

    return Shape(net, net.model, lambda: cached(call, canvas_of()))


def forward_itself() -> Shape:
    net = Network()
    return Shape(net, net.model, lambda: plain(net.forward, canvas_of()))


def inner_attached() -> Shape:
    inner = Network()
    outer = nn.DataParallel(inner)
    return Shape(inner, inner.model, lambda: plain(outer, canvas_of()))


def outer_attached() -> Shape:
    inner = Network()
    outer = nn.DataParallel(inner)
    return Shape(outer, inner.model, lambda: plain(inner, canvas_of()))


def inference_mode() -> Shape:
    shape = position_ids()

    def loop() -> Tensor:
        with torch.inference_mode():
            return shape.loop()

    return Shape(shape.model, shape.body, loop)


def autocast() -> Shape:
    net = Network().float()

    def loop() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return plain(net, canvas_of())

    return Shape(net, net.model, loop)
