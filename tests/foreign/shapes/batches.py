"""Loops over batches: guidance, padding, prompts of unequal length.

Shape letters: B batch, L canvas length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.foreign.shapes.common import (
    BEGIN,
    NEW,
    PROMPT,
    Shape,
    at,
    cached,
    canvas_of,
    pick,
    spans,
)
from tests.foreign.shapes.conventions import ByItself, ByPositionIds
from tests.foreign.shapes.network import EOS, MASK, Cache, Plain

TWO = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]])


def hidden(x: Tensor, given: Tensor) -> Tensor:
    """The canvas without its prompt."""
    other = x.clone()
    other[given] = MASK
    return other


def two_prompts() -> Shape:
    net, caches = ByPositionIds(), [Cache()]

    def call(x: Tensor, rows: slice) -> Tensor:
        return net(x[:, rows].clone(), position_ids=at(rows)[None], data_caches=caches)

    return Shape(net, net.model, lambda: cached(call, canvas_of(TWO)), prompts=(BEGIN, BEGIN))


def guided_in_one_batch(prompt: Tensor = PROMPT, *, hidden_first: bool = False) -> Shape:
    net = Plain()

    def loop() -> Tensor:
        x = canvas_of(prompt)
        given = x != MASK
        with torch.no_grad():
            for rows in spans():
                while (x[:, rows] == MASK).any():
                    pair = [x, hidden(x, given)]
                    halves = net(torch.cat(pair[::-1] if hidden_first else pair)).chunk(2)
                    cond, other = halves[::-1] if hidden_first else halves
                    guided = other + 1.5 * (cond - other)
                    token, chosen = pick(guided[:, rows], x[:, rows])
                    x[:, rows] = torch.where(chosen, token, x[:, rows])
        return x

    part = slice(len(prompt), None) if hidden_first else slice(0, len(prompt))
    return Shape(net, net.model, loop, prompts=(BEGIN,) * len(prompt), samples=part)


def guided_two_prompts() -> Shape:
    return guided_in_one_batch(TWO)


def guided_hidden_first() -> Shape:
    return guided_in_one_batch(hidden_first=True)


def guided_by_two_calls() -> Shape:
    net = Plain()

    def loop() -> Tensor:
        x = canvas_of()
        given = x != MASK
        with torch.no_grad():
            for rows in spans():
                while (x[:, rows] == MASK).any():
                    cond, other = net(x), net(hidden(x, given))
                    token, chosen = pick((2 * cond - other)[:, rows], x[:, rows])
                    x[:, rows] = torch.where(chosen, token, x[:, rows])
        return x

    return Shape(net, net.model, loop, twins=lambda call: call % 2 == 1)


def guided_by_two_calls_hidden_first() -> Shape:
    net = Plain()

    def loop() -> Tensor:
        x = canvas_of()
        given = x != MASK
        with torch.no_grad():
            for rows in spans():
                while (x[:, rows] == MASK).any():
                    other, cond = net(hidden(x, given)), net(x)
                    token, chosen = pick((2 * cond - other)[:, rows], x[:, rows])
                    x[:, rows] = torch.where(chosen, token, x[:, rows])
        return x

    return Shape(net, net.model, loop, twins=lambda call: call % 2 == 0)


def guided_in_three_parts() -> Shape:
    """The canvas repeated, with the prompt hidden in two of three parts."""
    net = Plain()

    def loop() -> Tensor:
        x = canvas_of()
        given = x != MASK
        with torch.no_grad():
            for rows in spans():
                while (x[:, rows] == MASK).any():
                    parts = x.repeat(3, 1)
                    parts[1:] = torch.where(given, MASK, x)
                    first, second, third = net(parts).chunk(3)
                    token, chosen = pick((3 * first - second - third)[:, rows], x[:, rows])
                    x[:, rows] = torch.where(chosen, token, x[:, rows])
        return x

    return Shape(net, net.model, loop, samples=slice(0, 1))


def guided_rows() -> Shape:
    """Both halves in one batch, all rows first, then those of the block by repeating them."""
    net = ByItself()
    net.cache = {}

    def loop() -> Tensor:
        x = canvas_of()
        given = x != MASK
        with torch.no_grad():
            for rows in spans():
                net.rows = None
                logits = net(torch.cat([x, hidden(x, given)]))[:, rows]
                while (x[:, rows] == MASK).any():
                    cond, other = logits.chunk(2)
                    token, chosen = pick(2 * cond - other, x[:, rows])
                    x[:, rows] = torch.where(chosen, token, x[:, rows])
                    if (x[:, rows] == MASK).any():
                        net.rows = at(rows)
                        logits = net(x[:, rows].repeat(2, 1))
        return x

    return Shape(net, net.model, loop, samples=slice(0, 1))


def unequal_prompts() -> Shape:
    """Each prompt has its masks behind it, then EOS; blocks are counted from its own end."""
    net, prompts = Plain(), (4, 6)

    def loop() -> Tensor:
        x = torch.full((2, 6 + NEW), EOS)
        for b, length in enumerate(prompts):
            x[b, :length] = TWO[b, :length]
            x[b, length : length + NEW] = MASK
        with torch.no_grad():
            for block in spans(0, NEW):
                inside = torch.zeros_like(x, dtype=torch.bool)
                for b, length in enumerate(prompts):
                    inside[b, length + block.start : length + block.stop] = True
                while (x[inside] == MASK).any():
                    token, chosen = pick(net(x), torch.where(inside, x, 0))
                    x = torch.where(chosen, token, x)
        return x

    return Shape(net, net.model, loop, prompts=prompts, blocks=((4, 8), (8, 12), (12, 16)))


def right_padded() -> Shape:
    """A short prompt is followed by padding, and the masks of all begin at one place."""
    net = Plain()

    def loop() -> Tensor:
        prompt = TWO.clone()
        prompt[0, 4:] = EOS
        return _whole(net, canvas_of(prompt))

    return Shape(net, net.model, loop, prompts=(BEGIN, BEGIN))


def _whole(net: Plain, x: Tensor) -> Tensor:
    with torch.no_grad():
        for rows in spans():
            while (x[:, rows] == MASK).any():
                token, chosen = pick(net(x)[:, rows], x[:, rows])
                x[:, rows] = torch.where(chosen, token, x[:, rows])
    return x


class Padded(ByPositionIds):
    """Numbers tokens from the first that is no padding; the body logs places in the canvas."""

    def forward(  # pyrefly: ignore[bad-override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past: list[Cache] | None = None,
    ) -> Tensor:
        """Rows at ``position_ids``, after as much padding as the mask says."""
        before = (attention_mask == 0).sum(1, keepdim=True)
        inside = attention_mask.shape[1] - input_ids.shape[1] > 0
        where = position_ids + before if inside else torch.arange(input_ids.shape[1])[None]
        return self.run(input_ids, where, past[0] if past else None)


def left_padded(*, lost: bool = False) -> Shape:
    """A short prompt has padding before it; position ids are counted from its first token."""
    net, past = Padded(), [Cache()]
    visible = torch.ones(2, BEGIN + NEW, dtype=torch.long)
    visible[0, :2] = 0
    number = (visible.cumsum(1) - 1).clamp(min=0)

    def call(x: Tensor, rows: slice) -> Tensor:
        ids = torch.from_numpy(x[:, rows].numpy().copy()) if lost else x[:, rows]
        return net(ids, visible, position_ids=number[:, rows], past=past)

    def loop() -> Tensor:
        prompt = TWO.clone()
        prompt[0, :2] = EOS
        return cached(call, canvas_of(prompt))

    return Shape(net, net.model, loop, prompts=(BEGIN, BEGIN))


def left_padded_and_lost() -> Shape:
    return left_padded(lost=True)


def unequal_rows() -> Shape:
    """Blocks at other places in each sample, gathered by an index and stated by position ids."""
    net, caches, prompts = ByPositionIds(), [Cache()], (4, 6)

    def loop() -> Tensor:
        x = torch.full((2, 6 + NEW), EOS)
        for b, length in enumerate(prompts):
            x[b, :length] = TWO[b, :length]
            x[b, length : length + NEW] = MASK
        with torch.no_grad():
            for block in spans(0, NEW):
                index = at(block)[None] + torch.tensor(prompts)[:, None]
                logits = net(x, data_caches=caches).gather(1, index[..., None].expand(-1, -1, 40))
                rows = x.gather(1, index)
                while (rows == MASK).any():
                    token, chosen = pick(logits, rows)
                    rows = torch.where(chosen, token, rows)
                    x = x.scatter(1, index, rows)
                    if (rows == MASK).any():
                        logits = net(rows, position_ids=index, data_caches=caches)
        return x

    return Shape(net, net.model, loop, prompts=prompts, blocks=((4, 8), (8, 12), (12, 16)))
