"""Faults of the cache: which rows are computed, where they are stored, at which positions.

Shape letters: B requests, L canvas length, N packed rows, U key/value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from faults.engine.instead import Fault, instead
from skipstone.blocks import Block, blocks
from skipstone.cache import (
    DllmCache,
    DualCache,
    DyllmCache,
    VicinityCache,
    delayed,
    kept_keys,
    pointed,
)
from skipstone.canvas import RequestStep, StepContext
from skipstone.engine import request
from skipstone.host_canvas import Status
from skipstone.memory.store import KVStore
from skipstone.models.base import ModelConfig
from skipstone.models.parts.decoder import Decoder
from skipstone.ops.model import reference as ops
from skipstone.rows import Rows


def _everything(rows: Rows) -> bool:
    """Whether rows are whole canvases, as in a refresh."""
    return rows.num_rows >= sum(part.bound * len(part.requests) for part in rows.alike)


# --- old keys and values --------------------------------------------------------------------------


@contextmanager
def no_refresh_at_the_second_block() -> Generator[None, None, None]:
    """Only the first block starts with a refresh."""
    rows = DualCache.rows

    def wrong(self: DualCache, context: StepContext) -> Rows:
        return rows(self, context) if context.only.block.index == 0 else context.block_rows()

    with instead(DualCache, "rows", wrong):
        yield


@contextmanager
def write_lost() -> Generator[None, None, None]:
    """In cached steps the first rows of the block are never written to the store."""
    write = ops.write_rows

    def wrong(
        key_CUE: Tensor, value_CUE: Tensor, rows: Rows, key_NUE: Tensor, value_NUE: Tensor
    ) -> None:
        if _everything(rows):
            write(key_CUE, value_CUE, rows, key_NUE, value_NUE)
            return
        late = np.arange(min(4, rows.num_rows - 1), rows.num_rows)
        write(key_CUE, value_CUE, rows.take(late), key_NUE[late], value_NUE[late])

    with instead(ops, "write_rows", wrong):
        yield


@contextmanager
def writes_one_step_late() -> Generator[None, None, None]:
    """In cached steps the store is written after attention has read it."""
    attend, write = ops.attend, ops.write_rows
    waiting = list[tuple[Tensor, Tensor, Rows, Tensor, Tensor]]()

    def hold(
        key_CUE: Tensor, value_CUE: Tensor, rows: Rows, key_NUE: Tensor, value_NUE: Tensor
    ) -> None:
        if _everything(rows):
            write(key_CUE, value_CUE, rows, key_NUE, value_NUE)
        else:
            waiting.append((key_CUE, value_CUE, rows, key_NUE, value_NUE))

    def wrong(
        q_NHE: Tensor,
        key_CUE: Tensor,
        value_CUE: Tensor,
        rows: Rows,
        visible_BL: Tensor | None,
    ) -> Tensor:
        out = attend(q_NHE, key_CUE, value_CUE, rows, visible_BL)
        while waiting:
            write(*waiting.pop())
        return out

    with instead(ops, "write_rows", hold), instead(ops, "attend", wrong):
        yield


@contextmanager
def refresh_stops_half_way() -> Generator[None, None, None]:
    """From the second block on, a refresh renews the prompt in the first half of layers only."""
    write = KVStore.write

    def wrong(
        self: KVStore,
        layer: int,
        rows: Rows,
        qkv_NHE: Tensor,
        angles_2NE: Tensor,
        norms: ops.HeadNorms | None = None,
    ) -> Tensor:
        stores = (self.keys[layer], self.values[layer])
        first = not stores[0].any()
        base = int(rows.base[0])
        prompt = slice(base, base + 8)
        before = [store[prompt].clone() for store in stores]
        q_NHE = write(self, layer, rows, qkv_NHE, angles_2NE, norms)
        late = layer >= self.keys.shape[0] // 2
        if late and not first and _everything(rows):
            for store, old in zip(stores, before, strict=True):
                store[prompt] = old
        return q_NHE

    with instead(KVStore, "write", wrong):
        yield


# --- old changes of layers ------------------------------------------------------------------------


@contextmanager
def response_never_due() -> Generator[None, None, None]:
    """The interval of the response is forgotten: nothing but its share is computed again."""

    def wrong(self: DllmCache, at: RequestStep) -> bool:
        return at.forward == 0

    with instead(DllmCache, "computes_response", wrong):
        yield


# --- other keys than those that are to be kept ----------------------------------------------------


def neighbours_not_pooled() -> Fault:
    """Each key is kept by its own score, whatever its neighbours have."""

    def wrong(score_M: Tensor, size: int) -> Tensor:
        return score_M

    return lambda: instead(kept_keys, "pooled", wrong)


def chosen_a_step_early() -> Fault:
    """Keys are chosen in the first step of a block, by what is computed there."""

    def wrong(self: kept_keys.KeptKeys, at: RequestStep) -> bool:
        return at.step == 0

    return lambda: instead(kept_keys.KeptKeys, "looks_at", wrong)


@contextmanager
def warmup_ends_at_once() -> Generator[None, None, None]:
    """The first forward alone computes everything; the prompt comes when it is due again."""

    def wrong(self: DyllmCache, at: RequestStep) -> bool:
        return at.forward == 0

    with instead(DyllmCache, "computes_all", wrong):
        yield


@contextmanager
def prompt_never_due() -> Generator[None, None, None]:
    """After the warm-up, the prompt is not computed any more."""
    with instead(DyllmCache, "computes_prompt", DyllmCache.computes_all):
        yield


# --- rows of others -------------------------------------------------------------------------------


@contextmanager
def write_one_position_off() -> Generator[None, None, None]:
    """In cached steps K/V go to the row of the position before."""
    write = ops.write_rows

    def wrong(
        key_CUE: Tensor, value_CUE: Tensor, rows: Rows, key_NUE: Tensor, value_NUE: Tensor
    ) -> None:
        if _everything(rows):
            write(key_CUE, value_CUE, rows, key_NUE, value_NUE)
            return
        cell_N = rows.cell_N - 1
        key_CUE[cell_N], value_CUE[cell_N] = key_NUE, value_NUE

    with instead(ops, "write_rows", wrong):
        yield


@contextmanager
def values_backwards() -> Generator[None, None, None]:
    """In cached steps values are scattered in reverse order of rows, keys are not."""
    write = ops.write_rows

    def wrong(
        key_CUE: Tensor, value_CUE: Tensor, rows: Rows, key_NUE: Tensor, value_NUE: Tensor
    ) -> None:
        if not _everything(rows):
            # Both together would change nothing: attention does not mind the order of its keys.
            value_NUE = value_NUE.flip(0)
        write(key_CUE, value_CUE, rows, key_NUE, value_NUE)

    with instead(ops, "write_rows", wrong):
        yield


@contextmanager
def keys_of_the_other_request() -> Generator[None, None, None]:
    """In cached steps the first request of a batch gets some K/V of the second."""
    write = ops.write_rows

    def wrong(
        key_CUE: Tensor, value_CUE: Tensor, rows: Rows, key_NUE: Tensor, value_NUE: Tensor
    ) -> None:
        write(key_CUE, value_CUE, rows, key_NUE, value_NUE)
        if rows.counts == (rows.counts[0],) * 2 and not _everything(rows):
            mine, theirs = (rows.cell_N[rows.request_N == b][:4] for b in (0, 1))
            for store_CUE in (key_CUE, value_CUE):
                store_CUE[mine] = store_CUE[theirs]

    with instead(ops, "write_rows", wrong):
        yield


def prompt_from_the_request_before(skipped: int) -> Fault:
    """The first forward trusts prompt rows of the store, which another request filled."""
    rows, init = DualCache.rows, KVStore.__init__

    def dirty(
        self: KVStore,
        config: ModelConfig,
        cells: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        most: int | None = None,
        spare: int = 0,
    ) -> None:
        init(self, config, cells, dtype, device, most=most, spare=spare)
        generator = torch.Generator().manual_seed(3)
        for store in (self.keys, self.values):
            store.copy_(torch.randn(store.shape, generator=generator))

    def wrong(self: DualCache, context: StepContext) -> Rows:
        right = rows(self, context)
        if context.only.block.index or context.only.step:
            return right
        length = right.num_rows
        return Rows.spans([(0, skipped, length)], right.device, lengths=[length])

    @contextmanager
    def fault() -> Generator[None, None, None]:
        with instead(KVStore, "__init__", dirty), instead(DualCache, "rows", wrong):
            yield

    return fault


# --- positions and regions ------------------------------------------------------------------------


@contextmanager
def values_not_written() -> Generator[None, None, None]:
    """Cached steps write their keys, and not their values."""
    write = ops.write_rows

    def wrong(
        key_CUE: Tensor, value_CUE: Tensor, rows: Rows, key_NUE: Tensor, value_NUE: Tensor
    ) -> None:
        if not _everything(rows):
            value_NUE = value_CUE[rows.cell_N]
        write(key_CUE, value_CUE, rows, key_NUE, value_NUE)

    with instead(ops, "write_rows", wrong):
        yield


@contextmanager
def keys_and_values_swapped() -> Generator[None, None, None]:
    """Cached steps write their values as keys, and the other way round."""
    write = ops.write_rows

    def wrong(
        key_CUE: Tensor, value_CUE: Tensor, rows: Rows, key_NUE: Tensor, value_NUE: Tensor
    ) -> None:
        if not _everything(rows):
            key_NUE, value_NUE = value_NUE, key_NUE
        write(key_CUE, value_CUE, rows, key_NUE, value_NUE)

    with instead(ops, "write_rows", wrong):
        yield


@contextmanager
def positions_one_too_far() -> Generator[None, None, None]:
    """In cached steps the rotary embedding is told positions one too large."""
    angles = Decoder.angles

    def wrong(self: Decoder, rows: Rows) -> Tensor:
        if rows.refresh:
            return angles(self, rows)
        return self.rotary_2LR[:, rows.position_N + 1]

    with instead(Decoder, "angles", wrong):
        yield


@contextmanager
def positions_from_zero() -> Generator[None, None, None]:
    """In cached steps the rotary embedding counts rows, not positions."""
    angles = Decoder.angles

    def wrong(self: Decoder, rows: Rows) -> Tensor:
        if rows.refresh:
            return angles(self, rows)
        return self.rotary_2LR[:, : rows.num_rows]

    with instead(Decoder, "angles", wrong):
        yield


@contextmanager
def other_rotary_base() -> Generator[None, None, None]:
    """The rotary embedding is built with the usual base, not with that of the checkpoint."""

    def wrong(self: Decoder, rows: Rows) -> Tensor:
        length, width = self.rotary_2LR.shape[1:]
        table_2LE = ops.rotary_tables(length, width, 10_000.0, rows.device)
        return table_2LE[:, rows.position_N]

    with instead(Decoder, "angles", wrong):
        yield


@contextmanager
def pairs_interleaved() -> Generator[None, None, None]:
    """The rotary embedding turns neighbours (0, 1), (2, 3); the checkpoint pairs halves."""

    def wrong(x_NHE: Tensor, angles_2NE: Tensor) -> Tensor:
        cos_N1F, sin_N1F = angles_2NE[:, :, None, : x_NHE.shape[-1] // 2]
        even, odd = x_NHE[..., ::2], x_NHE[..., 1::2]
        turned = (even * cos_N1F - odd * sin_N1F, even * sin_N1F + odd * cos_N1F)
        return torch.stack(turned, -1).flatten(-2)

    with instead(ops, "rotate", wrong):
        yield


@contextmanager
def block_rows_one_short() -> Generator[None, None, None]:
    """The cached rows of a block start one position too early, and end one too early."""
    rows = DualCache.rows

    def wrong(self: DualCache, context: StepContext) -> Rows:
        right = rows(self, context)
        if right.refresh:
            return right
        start, stop = int(right.position[0]), int(right.position[-1])
        length = int(right.horizon[0])
        return Rows.spans([(0, start - 1, stop)], right.device, lengths=[length])

    with instead(DualCache, "rows", wrong):
        yield


@contextmanager
def no_vicinity() -> Generator[None, None, None]:
    """The neighbours of the block are not recomputed with it."""
    rows_where = VicinityCache.rows_where

    def wrong(
        self: VicinityCache, is_due: Callable[[RequestStep], bool], context: StepContext
    ) -> Rows:
        return rows_where(replace(self, before=0, after=0), is_due, context)

    with instead(VicinityCache, "rows_where", wrong):
        yield


@contextmanager
def nothing_pointed_at() -> Generator[None, None, None]:
    """No row is computed for the attention that flows to it."""

    def wrong(flow_K: np.ndarray, share: float, without: np.ndarray) -> np.ndarray:
        return without[:0]

    with instead(pointed, "nucleus", wrong):
        yield


@contextmanager
def committed_left_out() -> Generator[None, None, None]:
    """A token is not computed again in the step after its commit."""
    to_decode = pointed.to_decode

    def wrong(offsets: np.ndarray, at: RequestStep, context: StepContext) -> np.ndarray:
        masked = context.host.status_BG[at.slot, offsets] == Status.MASK
        return to_decode(offsets[masked], at, context)

    with instead(pointed, "to_decode", wrong):
        yield


@contextmanager
def kept_at_once() -> Generator[None, None, None]:
    """Keys and values of a token are kept from the forward that commits it."""
    to_decode = delayed.to_decode

    def wrong(masked: np.ndarray, at: RequestStep, context: StepContext) -> np.ndarray:
        now = np.flatnonzero(context.host.status_BG[at.slot] == Status.MASK)
        return to_decode(now, at, context)

    with instead(delayed, "to_decode", wrong):
        yield


@contextmanager
def blocks_start_late() -> Generator[None, None, None]:
    """The prompt is counted one token too long where the first block ends."""

    def wrong(gen_length: int, block_length: int, before: int = 0) -> list[Block]:
        first, *rest = blocks(gen_length, block_length, before)
        late = [Block(b.index, b.start + 1, min(b.stop + 1, gen_length)) for b in rest]
        return [Block(0, 0, first.stop + 1), *late]

    with instead(request, "blocks", wrong):
        yield


@contextmanager
def cache_never_used() -> Generator[None, None, None]:
    """Every row is computed in every step although a cache was asked for."""

    def wrong(self: DualCache, context: StepContext) -> Rows:
        return context.all_rows(refresh=True)

    with instead(DualCache, "rows", wrong):
        yield
