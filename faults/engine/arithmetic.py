"""Faults of the arithmetic: one module, one dtype, numbers that are none, runs that disagree.

Shape letters: N packed rows, D width, V vocabulary, M MLP width, H heads, U key/value heads,
E head width.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from faults.engine.instead import Fault, instead
from skipstone.canvas import StepContext
from skipstone.engine.batch import Failed
from skipstone.engine.observe import StepView
from skipstone.engine.step import Stepper
from skipstone.memory.store import KVStore
from skipstone.models.parts.decoder import Decoder, Layer
from skipstone.ops.decide import reference as decide
from skipstone.ops.model import reference as ops
from skipstone.rows import Rows
from skipstone.unmask import Scores

# --- one module -----------------------------------------------------------------------------------


def wrong_layer(index: int) -> Fault:
    """One layer, counted from 0, takes the sigmoid of its gate and not the SiLU."""
    return lambda: _in_layer(index, F, "silu", torch.sigmoid)


def attention_too_sharp(index: int) -> Fault:
    """One layer, counted from 0, forgets to divide its scores by the root of the head width."""
    attend = F.scaled_dot_product_attention

    def wrong(
        q: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, enable_gqa: bool
    ) -> Tensor:
        return attend(q, key, value, attn_mask, scale=1.0, enable_gqa=enable_gqa)

    return lambda: _in_layer(index, F, "scaled_dot_product_attention", wrong)


def gate_and_up_swapped(index: int) -> Fault:
    """One layer, counted from 0, takes the two halves of its first MLP product the wrong way."""
    chunk = Tensor.chunk

    def wrong(self: Tensor, parts: int, dim: int = 0) -> tuple[Tensor, ...]:
        pieces = tuple(chunk(self, parts, dim))
        # Only the MLP cuts a matrix; the rotary embedding cuts heads.
        return pieces[::-1] if self.ndim == 2 else pieces

    return lambda: _in_layer(index, Tensor, "chunk", wrong)


@contextmanager
def _in_layer(index: int, owner: object, name: str, new: object) -> Generator[None, None, None]:
    """Replace something while one layer runs."""
    forward = Layer.forward

    def wrong(
        self: Layer, x_ND: Tensor, angles_2NE: Tensor, at: int, rows: Rows, store: KVStore
    ) -> Tensor:
        if at != index:
            return forward(self, x_ND, angles_2NE, at, rows, store)
        with instead(owner, name, new):
            return forward(self, x_ND, angles_2NE, at, rows, store)

    with instead(Layer, "forward", wrong):
        yield


@contextmanager
def embedding_too_large() -> Generator[None, None, None]:
    """Embeddings are scaled by the root of the width, as some other models do."""
    embed = Decoder.embed

    def wrong(self: Decoder, ids_N: Tensor) -> Tensor:
        return embed(self, ids_N) * self.config.width**0.5

    with instead(Decoder, "embed", wrong):
        yield


@contextmanager
def head_without_norm() -> Generator[None, None, None]:
    """The last norm leaves out its weight."""

    def wrong(self: Decoder, x_ND: Tensor) -> Tensor:
        return ops.rms_norm(x_ND, torch.ones_like(self.norm.weight), self.config.norm_eps)

    with instead(Decoder, "final_norm", wrong):
        yield


# --- numbers that are none, in an engine that does not stop at them -------------------------------


def _unstopped() -> AbstractContextManager[object]:
    """What is not a number is committed like any other, as engines without a check do."""
    commit = Stepper.commit

    def wrong(
        self: Stepper, scores: Scores, context: StepContext
    ) -> tuple[decide.Committed, Failed]:
        self.batch.stops_at_nan = False
        return commit(self, scores, context)

    return instead(Stepper, "commit", wrong)


def not_a_number(index: int) -> Fault:
    """One layer gives NaN at the middle row, from the fifth forward on."""
    return _layer_breaks(index, torch.nan)


def layer_overflows(index: int) -> Fault:
    """One layer gives infinity at the middle row, from the fifth forward on."""
    return _layer_breaks(index, torch.inf)


def _layer_breaks(index: int, value: float) -> Fault:
    layer = Decoder.layer

    @contextmanager
    def fault() -> Generator[None, None, None]:
        calls = [0]

        def wrong(
            self: Decoder, at: int, x_ND: Tensor, angles_2NE: Tensor, rows: Rows, store: KVStore
        ) -> Tensor:
            out_ND = layer(self, at, x_ND, angles_2NE, rows, store)
            calls[0] += at == 0
            if at == index and calls[0] >= 5:
                out_ND[rows.num_rows // 2] = value
            return out_ND

        with _unstopped(), instead(Decoder, "layer", wrong):
            yield

    return fault


@contextmanager
def infinite_logit() -> Generator[None, None, None]:
    """From the fourth forward on, the head gives infinity for one token of its first row."""
    head = Decoder.head
    calls = [0]

    def wrong(self: Decoder, normed_ND: Tensor) -> Tensor:
        logits_NV = head(self, normed_ND)
        calls[0] += 1
        if calls[0] >= 4:
            logits_NV[0, 5] = torch.inf
        return logits_NV

    with _unstopped(), instead(Decoder, "head", wrong):
        yield


# --- casts ----------------------------------------------------------------------------------------


@contextmanager
def eight_bit_values() -> Generator[None, None, None]:
    """Values are stored with 127 steps a row."""
    write = ops.write_rows

    def wrong(
        key_CUE: Tensor, value_CUE: Tensor, rows: Rows, key_NUE: Tensor, value_NUE: Tensor
    ) -> None:
        value_NUE = _rounded(value_NUE.flatten(1), 127).view_as(value_NUE)
        write(key_CUE, value_CUE, rows, key_NUE, value_NUE)

    with instead(ops, "write_rows", wrong):
        yield


@contextmanager
def four_bit_keys() -> Generator[None, None, None]:
    """Keys are stored with 7 steps for each row and head."""
    write = ops.write_rows

    def wrong(
        key_CUE: Tensor, value_CUE: Tensor, rows: Rows, key_NUE: Tensor, value_NUE: Tensor
    ) -> None:
        write(key_CUE, value_CUE, rows, _rounded(key_NUE, 7), value_NUE)

    with instead(ops, "write_rows", wrong):
        yield


def _rounded(values: Tensor, steps: int) -> Tensor:
    """Values on a grid with that many steps on either side of zero, by the largest of a row."""
    scale = values.abs().amax(-1, keepdim=True) / steps
    return (values / scale).round() * scale


@contextmanager
def half_precision_keys() -> Generator[None, None, None]:
    """Keys and values are stored in float16."""
    write = ops.write_rows

    def wrong(
        key_CUE: Tensor, value_CUE: Tensor, rows: Rows, key_NUE: Tensor, value_NUE: Tensor
    ) -> None:
        kind = key_NUE.dtype
        write(key_CUE, value_CUE, rows, key_NUE.half().to(kind), value_NUE.half().to(kind))

    with instead(ops, "write_rows", wrong):
        yield


@contextmanager
def states_cast_to_bfloat16() -> Generator[None, None, None]:
    """The states between layers pass through bfloat16."""
    layer = Decoder.layer

    def wrong(
        self: Decoder, at: int, x_ND: Tensor, angles_2NE: Tensor, rows: Rows, store: KVStore
    ) -> Tensor:
        return layer(self, at, x_ND, angles_2NE, rows, store).bfloat16().to(x_ND.dtype)

    with instead(Decoder, "layer", wrong):
        yield


# --- runs that disagree with themselves -----------------------------------------------------------


@contextmanager
def recording_changes_the_run() -> Generator[None, None, None]:
    """A run that is watched breaks the values that it shows."""
    view = Stepper.view

    def wrong(self: Stepper, *arguments: object) -> StepView:
        seen = cast("StepView", view(self, *arguments))  # pyrefly: ignore[bad-argument-type]
        self.batch.runner.store.values[:, :, ::3] *= 0.7
        return seen

    with instead(Stepper, "view", wrong):
        yield


@contextmanager
def recording_moves_the_keys() -> Generator[None, None, None]:
    """A run that is watched shifts its keys by one position, in place."""
    view = Stepper.view

    def wrong(self: Stepper, *arguments: object) -> StepView:
        seen = cast("StepView", view(self, *arguments))  # pyrefly: ignore[bad-argument-type]
        keys = self.batch.runner.store.keys
        keys.copy_(keys.roll(1, 1))
        return seen

    with instead(Stepper, "view", wrong):
        yield


@contextmanager
def different_every_time() -> Generator[None, None, None]:
    """States carry noise that no seed controls."""
    layer = Decoder.layer
    generator = torch.Generator()
    generator.seed()

    def wrong(
        self: Decoder, at: int, x_ND: Tensor, angles_2NE: Tensor, rows: Rows, store: KVStore
    ) -> Tensor:
        out_ND = layer(self, at, x_ND, angles_2NE, rows, store)
        return out_ND * (1 + 0.2 * torch.randn(out_ND.shape, generator=generator))

    with instead(Decoder, "layer", wrong):
        yield


# --- no fault -------------------------------------------------------------------------------------


@contextmanager
def last_bit() -> Generator[None, None, None]:
    """Every embedding is moved by one unit in the last place, up or down."""
    embed = Decoder.embed

    def wrong(self: Decoder, ids_N: Tensor) -> Tensor:
        x_ND = embed(self, ids_N)
        generator = torch.Generator().manual_seed(11)
        sign_D = torch.randint(-1, 2, x_ND.shape[-1:], generator=generator)
        return x_ND * (1 + torch.finfo(x_ND.dtype).eps * sign_D.to(x_ND.dtype))

    with instead(Decoder, "embed", wrong):
        yield
