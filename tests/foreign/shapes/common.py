"""What the loops of the corpus share: all commit the surest masks of a block.

Shape letters: B batch, N rows of the call, L canvas length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tests.foreign.shapes.network import MASK, Body

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
