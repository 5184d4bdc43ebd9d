"""Loops for models that score a position by the row before, or see block by block.

All take one prompt [1, P], commit the most confident masks of their block, and return the canvas.
What they may do wrong is a function in the place of the right one: no argument says that it is.

Shape letters: L canvas length, R rows of a call, T keys, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from specimens.decode import blocks, choose, start_canvas
from specimens.qwen_style import KeyValue, QwenModel

Past = tuple[KeyValue, ...] | None
"""Keys and values of all layers; None before anything was stored."""

Scores = Callable[[Tensor], Tensor]
"""From the logits [1, R, V] of a call's rows to those of the positions that they score."""

Sight = Callable[[Tensor, Tensor, int, int], Tensor]
"""Which rows [R, 1] see which keys [1, T], bool [R, T]; given the block length and the prompt's."""

Write = Callable[[Past], Past]
"""Computes the block behind a cache as it is by now, and returns the longer cache."""

Store = Callable[[Past, Past, Write, int], Past]
"""The cache that goes on, given the one so far, the one that the step has returned, the forward
that writes, and how many masks the block has: before each commit, and once more with none.
"""


# --- what scores a position ----------------------------------------------------------------------


def shifted(logits: Tensor) -> Tensor:
    """Row p of what comes out scores position p."""
    return torch.cat([logits[:, :1], logits[:, :-1]], dim=1)


def own_row(logits: Tensor) -> Tensor:
    """A position is scored by its own row: the shift is forgotten."""
    return logits


def shifted_by_two(logits: Tensor) -> Tensor:
    """One row too far left."""
    return shifted(shifted(logits))


def shifted_back(logits: Tensor) -> Tensor:
    """The row behind a position scores it."""
    return torch.cat([logits[:, 1:], logits[:, -1:]], dim=1)


@dataclass(frozen=True)
class ShiftedWay:
    """How a cached loop goes about logits that are those of the next token."""

    whole: Scores = shifted
    """Of the forward over the whole canvas."""
    cached: Scores = shifted
    """Of the forwards behind the cache, which begin one row before the block."""
    first: Callable[[int], int] = lambda start: start - 1
    """The first row of these, by the start of the block."""
    kept: Callable[[int], int] = lambda first: first
    """How many positions the cache keeps, by the first row behind it."""
    places: Callable[[Tensor], Tensor] = lambda rows: rows
    """Position ids of rows behind the cache."""


@torch.no_grad()
def dream(
    model: QwenModel,
    prompt: Tensor,
    *,
    gen_length: int = 16,
    a_step: int = 2,
    scores: Scores = shifted,
) -> Tensor:
    """No cache and no blocks; the logits are those of the next token."""
    mask_id = model.shape.mask_id
    x = start_canvas(prompt, gen_length, mask_id)
    while (x == mask_id).any():
        token, commit = choose(scores(model(x).logits), x == mask_id, mask_id, a_step, None)
        x[commit] = token[commit]
    return x


@torch.no_grad()
def dream_cached(
    model: QwenModel,
    prompt: Tensor,
    *,
    gen_length: int = 16,
    block_length: int = 8,
    a_step: int = 2,
    way: ShiftedWay = ShiftedWay(),
) -> Tensor:
    """Prefix cache: rows begin with the one before the block, which scores its first position."""
    mask_id = model.shape.mask_id
    x = start_canvas(prompt, gen_length, mask_id)
    for start, stop in blocks(prompt, gen_length, block_length):
        out, first = model(x), way.first(start)
        logits, kept = way.whole(out.logits)[:, start:], way.kept(first)
        past = tuple((k[:, :, :kept], v[:, :, :kept]) for k, v in out.past_key_values)
        while (x[:, start:stop] == mask_id).any():
            masked = x[:, start:] == mask_id
            masked[:, stop - start :] = False
            token, commit = choose(logits, masked, mask_id, a_step, None)
            x[:, start:][commit] = token[commit]
            places = way.places(torch.arange(first, x.shape[1]))[None]
            out = model(x[:, first:], position_ids=places, past_key_values=past)
            logits = way.cached(out.logits)[:, start - first :]
    return x


# --- who sees whom -------------------------------------------------------------------------------


def own_block(rows: Tensor, keys: Tensor, block: int, prompt: int) -> Tensor:
    """A row sees the keys up to the end of its block."""
    return keys // block <= rows // block


def block_before(rows: Tensor, keys: Tensor, block: int, prompt: int) -> Tensor:
    """Not its own block, but for itself."""
    return (keys // block < rows // block) | (keys == rows)


def causal(rows: Tensor, keys: Tensor, block: int, prompt: int) -> Tensor:
    """Only what stands left of it."""
    return keys <= rows


def one_too_far(rows: Tensor, keys: Tensor, block: int, prompt: int) -> Tensor:
    """The block after its own, too."""
    return keys // block <= rows // block + 1


def everything(rows: Tensor, keys: Tensor, block: int, prompt: int) -> Tensor:
    """All keys of the call."""
    return (keys >= 0) & (rows >= 0)


def from_the_prompt(rows: Tensor, keys: Tensor, block: int, prompt: int) -> Tensor:
    """Blocks are counted from the end of the prompt, all of which is one block."""
    row, key = ((where - prompt).div(block, rounding_mode="floor") for where in (rows, keys))
    return (key <= row) | (keys < prompt)


def tail_hidden(rows: Tensor, keys: Tensor, block: int, prompt: int) -> Tensor:
    """Not the end of the prompt that is in its block."""
    tail = (keys < prompt) & (keys // block == prompt // block)
    return own_block(rows, keys, block, prompt) & ~(tail & (rows >= prompt))


# --- what is stored ------------------------------------------------------------------------------


def when_done(past: Past, here: Past, write: Write, masks: int) -> Past:
    """A finished block is computed once more, and stored."""
    return past if masks else write(past)


def never(past: Past, here: Past, write: Write, masks: int) -> Past:
    """What the last step has computed is kept, with the masks that it had."""
    return here if masks else past


def before_the_last_commit(past: Past, here: Past, write: Write, masks: int) -> Past:
    """One step too early: one mask is stored."""
    return write(past) if masks == 1 else past


def twice(past: Past, here: Past, write: Write, masks: int) -> Past:
    """All that follows sees the block two times."""
    return past if masks else write(write(past))


def over_the_last(past: Past, here: Past, write: Write, masks: int) -> Past:
    """The last row that was stored is lost."""
    return past if masks else write(_first(past, -1))


def by_itself(past: Past, here: Past, write: Write, masks: int) -> Past:
    """The block is computed as if nothing stood before it."""
    return past if masks else _joined(past, write(None))


def _first(past: Past, count: int) -> Past:
    return past and tuple((k[:, :, :count], v[:, :, :count]) for k, v in past)


def _joined(past: Past, more: Past) -> Past:
    if past is None or more is None:
        return past or more
    pairs = zip(past, more, strict=True)
    return tuple((torch.cat([k, m], 2), torch.cat([v, n], 2)) for (k, v), (m, n) in pairs)


@dataclass(frozen=True)
class BlockWay:
    """How a loop goes about blocks that see what stands left of them."""

    sees_prompt: Sight = own_block
    """In the forward over the prompt."""
    sees: Sight = own_block
    """In the steps."""
    sees_stored: Sight = own_block
    """In the forward that stores a finished block."""
    store: Store = when_done
    begin: Callable[[int, int], int] = lambda prompt, block: prompt // block * block
    """Where the first block begins, by the length of the prompt and of a block."""
    prefill: Callable[[int, int], int] = lambda begin, block: begin
    """How much of the prompt is stored at first."""
    places: Callable[[Tensor], Tensor] = lambda rows: rows
    """Position ids of rows in the steps."""
    places_stored: Callable[[Tensor], Tensor] = lambda rows: rows
    """The same in the forward that stores them."""
    share: Callable[[int, int], int] = lambda a_step, masks: a_step
    """How many masks a step commits, of so many."""

    @classmethod
    def seeing(cls, sight: Sight) -> BlockWay:
        """The same in every forward."""
        return cls(sight, sight, sight)


@torch.no_grad()
def sdar(
    model: QwenModel,
    prompt: Tensor,
    *,
    gen_length: int = 12,
    block_length: int = 4,
    a_step: int = 1,
    way: BlockWay = BlockWay(),
) -> Tensor:
    """Prefill of whole blocks; a block is decoded over the cache, and then stored."""
    mask_id, length = model.shape.mask_id, prompt.shape[1]
    begin = way.begin(length, block_length)
    total = begin + -(-(length + gen_length - begin) // block_length) * block_length
    x = start_canvas(prompt, total - length, mask_id)
    call = partial(_call, model, x, block_length, length)
    written = way.prefill(begin, block_length)
    past = call(None, (0, written), way.sees_prompt)[1] if written else None
    for start in range(begin, total, block_length):
        span, before = (start, start + block_length), past

        def write(past: Past, span: tuple[int, int] = span) -> Past:
            return call(past, span, way.sees_stored, way.places_stored)[1]

        while (x[:, start : span[1]] == mask_id).any():
            logits, here = call(before, span, way.sees, way.places)
            masked = x[:, start : span[1]] == mask_id
            masks = int(masked.sum())
            past = way.store(before, here, write, masks)
            token, commit = choose(logits, masked, mask_id, way.share(a_step, masks), None)
            x[:, start : span[1]][commit] = token[commit]
        past = way.store(past, past, write, 0)
    return x


@torch.no_grad()
def windows(
    model: QwenModel,
    prompt: Tensor,
    *,
    gen_length: int = 12,
    block_length: int = 4,
    a_step: int = 1,
    way: BlockWay = BlockWay(),
) -> Tensor:
    """No cache: each step computes the window from the start to the end of its block."""
    mask_id, length = model.shape.mask_id, prompt.shape[1]
    begin = way.begin(length, block_length)
    total = begin + -(-(length + gen_length - begin) // block_length) * block_length
    x = start_canvas(prompt, total - length, mask_id)
    for start in range(begin, total, block_length):
        stop = start + block_length
        while (x[:, start:stop] == mask_id).any():
            logits = _call(model, x, block_length, length, None, (0, stop), way.sees, way.places)[0]
            masked = x[:, :stop] == mask_id
            share = way.share(a_step, int(masked.sum()))
            token, commit = choose(logits, masked, mask_id, share, None)
            x[:, :stop][commit] = token[commit]
    return x


def _call(
    model: QwenModel,
    x: Tensor,
    block: int,
    prompt: int,
    past: Past,
    span: tuple[int, int],
    sees: Sight,
    places: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> tuple[Tensor, Past]:
    rows = torch.arange(*span)
    kept = torch.arange(0 if past is None else past[0][0].shape[2])
    keys = torch.cat([kept, rows])
    out = model(
        x[:, span[0] : span[1]],
        attention_mask=sees(rows[:, None], keys[None], block, prompt)[None, None],
        position_ids=places(rows)[None],
        past_key_values=past,
    )
    return out.logits, out.past_key_values
