"""Faults inside a forward: attention, rotation, norms, and the order of a layer's parts."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from faults.published.code import Code, Context
from faults.published.fault import planted
from faults.published.jobs import fixed, sure
from faults.truth import ALWAYS, CACHED, Truth, anywhere, in_block

Attention = Callable[..., Any]
"""Of queries, keys and values [B, H, L, D]; what it gives is what theirs gives."""


def blocks(code: Code) -> Any:
    """The layers of a LLaDA, or of what wraps one."""
    net = getattr(code.net, "inner", code.net)
    return net.model.transformer.blocks


@contextmanager
def attended(code: Code, make: Callable[[Attention], Attention], *layers: int) -> Generator[None]:
    """Let other functions compute the attention of some layers, counted from 1; of all if none."""
    chosen = [block for i, block in enumerate(blocks(code)) if not layers or i + 1 in layers]
    for block in chosen:
        block._scaled_dot_product_attention = make(block._scaled_dot_product_attention)
    yield


def _first(done: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change what attention gives, where weights may come with it."""
    return (change(done[0]), *done[1:]) if isinstance(done, tuple) else change(done)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5


# --- who is seen ----------------------------------------------------------------------------------


@planted(
    "visible-set",
    "module-bug",
    at=Truth(ALWAYS, (2,), anywhere),
    into={"llada": fixed("plain")[:1], "fast-dllm": fixed("plain")[:1], "dllm": fixed("plain")[1:]},
)
def one_layer_is_causal(code: Code) -> Context:
    """The second layer sees only what stands left of a row, as before it was made a diffusion."""

    def causal(attention: Attention) -> Attention:
        def wrong(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Any:
            left = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
            return attention(q, k, v, **(more | {"attn_mask": left}))

        return wrong

    return attended(code, causal, 2)


@planted(
    "visible-set",
    "module-bug",
    at=Truth(ALWAYS, (1,), anywhere),
    into={"llada": fixed("plain")[1:], "d2cache": fixed("plain")[:1]},
)
def window_of_six(code: Code) -> Context:
    """A sliding window is on: a row sees six positions on either side."""

    def near(attention: Attention) -> Attention:
        def wrong(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Any:
            rows = torch.arange(k.shape[-2])
            window = (rows[:, None] - rows).abs() <= 6
            return attention(q, k, v, **(more | {"attn_mask": window}))

        return wrong

    return attended(code, near)


# --- how it is weighed ----------------------------------------------------------------------------


@planted(
    "module-bug",
    at=Truth(ALWAYS, (1,), anywhere),
    into={
        "fast-dllm": fixed("plain")[:1],
        "d2cache": fixed("dual")[1:],
        "llada": fixed("plain")[:1],
    },
)
def nothing_may_be_attended(code: Code) -> Context:
    """The softmax of attention has one more term of 1 below, as of a sink without a value."""

    def sink(attention: Attention) -> Attention:
        def wrong(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Any:
            share = _scores(q, k).logsumexp(-1, keepdim=True).sigmoid()
            return _first(attention(q, k, v, **more), lambda out: out * share)

        return wrong

    return attended(code, sink)


@planted(
    "module-bug",
    at=Truth(ALWAYS, (1,), anywhere),
    into={"fast-dllm": sure("dual")[:1], "dllm": fixed("plain")[:1]},
)
def scores_are_capped(code: Code) -> Context:
    """Scores of attention are bent below 2 by a tanh that this model was not trained with."""

    def cap(attention: Attention) -> Attention:
        def wrong(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Any:
            return (2 * (_scores(q, k) / 2).tanh()).softmax(-1) @ v

        return wrong

    return attended(code, cap)


@planted(
    "module-bug",
    at=Truth(CACHED, (1,), in_block),
    into={"fast-dllm": fixed("dual")[:1], "dinfer": sure("dual")[:1], "d2cache": sure("dual")[1:]},
)
def queries_are_scaled_twice_behind_a_cache(code: Code) -> Context:
    """In cached steps queries are divided by the root of the head's width once too often."""

    def twice(attention: Attention) -> Attention:
        def wrong(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Any:
            cached = q.shape[-2] < k.shape[-2]
            return attention(q / q.shape[-1] ** 0.5 if cached else q, k, v, **more)

        return wrong

    return attended(code, twice)


@planted(
    "module-bug",
    "wrong-cache-row: head",
    at=Truth(ALWAYS, (1,), anywhere),
    into={
        "d2cache": fixed("dual", kv_heads=2)[:1] + fixed("plain", kv_heads=2)[1:],
        "dream": fixed("plain", alg="entropy")[:1],
    },
)
def shared_heads_in_turn(code: Code) -> Context:
    """Heads of keys are repeated as 0 1 0 1 where 0 0 1 1 is right."""

    def in_turn(hidden_states: Tensor, n_rep: int) -> Tensor:
        return hidden_states.repeat(1, n_rep, 1, 1)

    return code.change("model.repeat_kv", lambda _: in_turn)


@planted(
    "module-bug",
    at=Truth(ALWAYS, (1,), anywhere),
    into={"llada": fixed("plain")[1:], "dllm-fast": fixed("none")[:1]},
)
def heads_are_not_moved_back(code: Code) -> Context:
    """Attention's output is flattened while heads still stand before rows."""

    def flat(attention: Attention) -> Attention:
        def wrong(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Any:
            out = attention(q, k, v, **more)
            batch, heads, rows, width = out.shape
            return out.reshape(batch, rows, heads, width).transpose(1, 2)

        return wrong

    return attended(code, flat)


# --- rotation -------------------------------------------------------------------------------------


def _half_turned(kept: Tensor, turned: Tensor) -> Tensor:
    """What a rotation of every other frequency would give, from one of all."""
    width = kept.shape[-1]
    slow = torch.arange(width) % (width // 2) >= width // 4
    return torch.where(slow, kept, turned)


@planted(
    "position-encoding",
    "module-bug",
    at=Truth(ALWAYS, (1,), anywhere),
    into={
        "fast-dllm": fixed("prefix")[:1],
        "llada": fixed("plain")[:1],
        "dream": fixed("plain", alg="maskgit_plus")[:1],
    },
)
def half_of_the_head_is_rotated(code: Code) -> Context:
    """Only the faster half of the frequencies is rotated, as in models with a partial rotation."""
    if code.base.name == "dream":

        def pair(rotate: Any) -> Any:
            def wrong(q: Tensor, k: Tensor, *more: Any, **named: Any) -> Any:
                turned = rotate(q, k, *more, **named)
                return tuple(map(_half_turned, (q, k), turned))

            return wrong

        return code.change("model.apply_rotary_pos_emb", pair)

    def one(rotate: Any) -> Any:
        def wrong(self: Any, sin: Tensor, cos: Tensor, t: Tensor) -> Tensor:
            return _half_turned(t, rotate(self, sin, cos, t))

        return wrong

    return code.change("model.RotaryEmbedding.apply_rotary_pos_emb", one)


# --- norms, residuals, the head -------------------------------------------------------------------


@contextmanager
def _hooked(*handles: Any) -> Generator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@planted(
    "module-bug",
    at=Truth(ALWAYS),
    into={
        "fast-dllm": fixed("dual")[:1],
        "llada": fixed("plain")[:1],
        "dream": fixed("plain", alg="entropy")[1:],
    },
)
def last_norm_twice(code: Code) -> Context:
    """The norm before the head is applied twice."""
    inner = code.net.model
    norm = inner.norm if code.base.name == "dream" else inner.transformer.ln_f

    def again(module: nn.Module, _: object, out: Tensor) -> Tensor:
        return module.forward(out)

    return _hooked(norm.register_forward_hook(again))


@planted(
    "module-bug",
    at=Truth(ALWAYS, (3,), anywhere),
    into={"llada": fixed("plain")[:1], "d2cache": fixed("plain")[1:]},
)
def attention_and_mlp_side_by_side(code: Code) -> Context:
    """The third layer's MLP reads what the layer was given, and not what attention made of it."""
    block, given = blocks(code)[2], dict[str, Tensor]()

    def keep(_: object, args: tuple[Tensor, ...]) -> None:
        given["x"] = args[0]

    def take(*_: object) -> tuple[Tensor, ...]:
        return (given["x"],)

    return _hooked(
        block.attn_norm.register_forward_pre_hook(keep),
        block.ff_norm.register_forward_pre_hook(take),
    )


@planted(
    "nondeterminism",
    "module-bug",
    at=Truth(ALWAYS, (3,), anywhere),
    into={"llada": fixed("plain")[1:], "fast-dllm": fixed("plain")[:1]},
)
def one_layer_is_in_training(code: Code) -> Context:
    """The third layer drops a tenth of what it adds, for it was never put into eval mode."""
    drop = blocks(code)[2].dropout
    drop.p = 0.1
    drop.train()
    return _hooked()


@planted(
    "quantised",
    "confidence-dtype",
    "module-bug",
    at=Truth(ALWAYS),
    into={"fast-dllm": fixed("plain")[1:], "d2cache": fixed("plain", sharp=True)[:1]},
)
def head_in_bfloat16(code: Code) -> Context:
    """Logits come from a head in bfloat16, and are made float32 again."""
    head = code.net.model.transformer.ff_out

    def coarse(_: object, __: object, out: Tensor) -> Tensor:
        return out.bfloat16().to(out.dtype)

    return _hooked(head.register_forward_hook(coarse))


@planted(
    "module-bug",
    "other-inputs: eps",
    at=Truth(ALWAYS, (1,), anywhere),
    into={"fast-dllm": fixed("plain")[:1], "dream": fixed("plain", alg="entropy")[:1]},
)
def norms_with_a_large_epsilon(code: Code) -> Context:
    """Norms add 0.1 to the mean square and not 0.00001: an exponent was lost."""
    for module in code.net.modules():
        for name in ("eps", "variance_epsilon"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.1)
    return _hooked()


@planted(
    "module-bug",
    at=Truth(ALWAYS, (4,), anywhere),
    into={"dllm-cache": fixed("plain")[:1], "dkv-cache": fixed("plain")[:1]},
)
def last_layer_adds_no_attention(code: Code) -> Context:
    """What the last layer's attention gives is not added to the residual."""
    out = blocks(code)[3].attn_out

    def none(_: object, __: object, done: Tensor) -> Tensor:
        return torch.zeros_like(done)

    return _hooked(out.register_forward_hook(none))
