"""Faults of a forward: angles, masks, norms, heads, weights of a layer, the last matrix."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from faults.published.code import Code, Context, together
from faults.published.fault import planted
from faults.published.jobs import fixed, padded, sure
from faults.published.weights import LAYERS
from faults.truth import ALWAYS, Truth, anywhere

LLADA = {"llada": fixed("generate")[:1]}
QWEN = {"open-dllm": fixed("maskgit_plus")[:1]}
DINFER = {"dinfer": sure("plain")[:1]}
SDAR = {"sdar": sure("dynamic", block_length=8)[:1]}
FIRST, SECOND, THIRD = (Truth(ALWAYS, (n,), anywhere) for n in (1, 2, 3))
LAST = Truth(ALWAYS, where=anywhere)


def _inner(code: Code) -> Any:
    """The network behind whatever wraps it."""
    return getattr(code.net, "inner", code.net).model


def _layers(code: Code) -> Any:
    inner = _inner(code)
    return inner.layers if hasattr(inner, "layers") else inner.transformer.blocks


def _head(code: Code) -> Any:
    inner = _inner(code)
    return inner.transformer.ff_out if hasattr(inner, "transformer") else _outer(code).lm_head


def _outer(code: Code) -> Any:
    return getattr(code.net, "inner", code.net)


def _after(module: Any, change: Callable[[Tensor], Tensor]) -> None:
    """Change what a module returns, without a hook that could be seen; the net is used once."""
    forward = module.forward

    def changed(*args: Any, **kwargs: Any) -> Tensor:
        return change(forward(*args, **kwargs))

    module.forward = changed


def _without(bias: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda states: states - bias


def _rounded(states: Tensor) -> Tensor:
    return states.bfloat16().to(states)


# --- positions ------------------------------------------------------------------------------------


@planted("position-encoding", at=FIRST, into={**LLADA, **QWEN, **SDAR, **DINFER})
def another_base_of_the_angles(code: Code) -> Context:
    """Angles are those of a model for longer texts."""
    for module in _outer(code).modules():
        if hasattr(module, "inv_freq"):
            module.inv_freq = module.inv_freq**1.4
    if not hasattr(_inner(code), "transformer"):
        return nullcontext()

    def make(tables: Any) -> Any:
        def wrong(self: Any, seq_len: int, device: torch.device) -> tuple[Tensor, Tensor]:
            width = self.config.d_model // self.config.n_heads
            rates = 400000.0 ** -(torch.arange(0, width, 2) / width)
            angles = torch.outer(torch.arange(seq_len), rates).repeat(1, 2)[None, None]
            return angles.sin(), angles.cos()

        return wrong

    return code.change("model.RotaryEmbedding.get_rotary_embedding", make)


@planted("position-encoding", at=FIRST, into={**LLADA, **QWEN, "es-dllm": fixed("cache")[:1]})
def half_of_each_head_is_turned(code: Code) -> Context:
    """Only half of the angles are applied, as in models with a part that is not rotated."""

    def still(table: Tensor, rest: float) -> Tensor:
        half = table.shape[-1] // 2
        part = torch.arange(table.shape[-1]) % half < half // 2
        return torch.where(part, table, torch.full_like(table, rest))

    if code.base.name == "open-dllm":

        def make(rotate: Any) -> Any:
            def wrong(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any) -> Any:
                return rotate(q, k, still(cos, 1.0), still(sin, 0.0), *more)

            return wrong

        return code.change("model.apply_rotary_pos_emb", make)

    def make_llada(rotate: Any) -> Any:
        def wrong(self: Any, sin: Tensor, cos: Tensor, t: Tensor) -> Tensor:
            return rotate(self, still(sin, 0.0), still(cos, 1.0), t)

        return wrong

    return code.change("model.RotaryEmbedding.apply_rotary_pos_emb", make_llada)


# --- attention ------------------------------------------------------------------------------------


@planted("visible-set", at=THIRD, into={**LLADA, **QWEN})
def window_in_one_layer(code: Code) -> Context:
    """Layer 3 alone sees only six positions to either side."""
    calls = 0

    def make(attend: Any) -> Any:
        def wrong(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
            nonlocal calls
            calls += 1
            if calls % LAYERS == 3:
                rows = torch.arange(k.shape[-2])
                more["attn_mask"] = (rows[:, None] - rows[None]).abs() <= 6
            return attend(q, k, v, **more)

        return wrong

    return code.change("model.torch.nn.functional.scaled_dot_product_attention", make)


@planted("module-bug", at=FIRST, into={"dinfer": sure("plain", kv_heads=2)})
def heads_of_the_other_group(code: Code) -> Context:
    """Query heads read the keys and values of the other group."""
    where = "model.LLaDABlock._scaled_dot_product_attention"
    return together(*(code.insert(where, f"{t} = {t}.roll(2, 1)", after=t) for t in ("k", "v")))


@planted("module-bug", "nondeterminism", at=FIRST, into=LLADA)
def dropout_left_on(code: Code) -> Context:
    """The model is in training mode, with a dropout of its attention weights."""
    for layer in _layers(code):
        layer.config.attention_dropout = 0.1
    code.net.train()
    return nullcontext()


@planted("visible-set", at=FIRST, into={"llada": padded("generate")}, request=1)
def padding_mask_is_added_as_it_is(code: Code) -> Context:
    """The mask of the padding is added to the scores as ones and zeros, not as zeros and -inf."""
    where = "model.LLaDAModel.forward"
    plain = "attention_mask = 1.0 + attention_mask / torch.finfo(torch.float).max"
    return code.insert(where, plain, after="attention_mask", nth=1)


@planted("module-bug", at=FIRST, into={**QWEN, **SDAR})
def bias_of_the_values_dropped(code: Code) -> Context:
    """The bias of the value projection is not added."""
    for layer in _layers(code):
        _after(layer.self_attn.v_proj, _without(layer.self_attn.v_proj.bias))
    return nullcontext()


# --- norms, MLP, layers ---------------------------------------------------------------------------


@planted("module-bug", at=THIRD, into={**LLADA, **QWEN, **DINFER})
def one_is_added_to_the_weight_of_a_norm(code: Code) -> Context:
    """The norm before the MLP of layer 3 scales by one more than its weight, as in other models."""
    layer = _layers(code)[2]
    norm = layer.ff_norm if hasattr(layer, "ff_norm") else layer.post_attention_layernorm
    _after(norm, lambda states: states + states / norm.weight)
    return nullcontext()


@planted("module-bug", at=LAST, into={**LLADA, **QWEN, "dkv-cache": fixed("decode")[:1]})
def mean_taken_off_in_the_last_norm(code: Code) -> Context:
    """The last norm takes the mean off its input, as a layer norm does."""
    inner = _inner(code)
    norm = inner.norm if hasattr(inner, "norm") else inner.transformer.ln_f
    forward = norm.forward

    def centred(states: Tensor) -> Any:
        return forward(states - states.mean(-1, keepdim=True))

    norm.forward = centred
    return nullcontext()


@planted("module-bug", "quantised", at=FIRST, into={**LLADA, **QWEN})
def norms_in_bfloat16(code: Code) -> Context:
    """Every norm computes in bfloat16."""
    for name, module in _outer(code).named_modules():
        if "norm" in name.rpartition(".")[2]:
            _after(module, _rounded)
    return nullcontext()


@planted("module-bug", "other-inputs: weight", at=SECOND, into={**LLADA, **QWEN, **SDAR})
def gate_and_up_swapped(code: Code) -> Context:
    """In layer 2 the two matrices that the MLP begins with are mistaken for each other."""
    layer = _layers(code)[1]
    part, gate = (layer.mlp, "gate_proj") if hasattr(layer, "mlp") else (layer, "ff_proj")
    first, second = getattr(part, gate), part.up_proj
    setattr(part, gate, second)
    part.up_proj = first
    return nullcontext()


@planted("module-bug", "other-inputs: weight", at=SECOND, into={**LLADA, **QWEN, **DINFER})
def two_layers_loaded_in_the_wrong_order(code: Code) -> Context:
    """Layers 2 and 3 have each other's weights."""
    second, third = _layers(code)[1], _layers(code)[2]
    for mine, theirs in zip(second.parameters(), third.parameters(), strict=True):
        kept = mine.clone()
        mine.copy_(theirs)
        theirs.copy_(kept)
    return nullcontext()


@planted("module-bug", at=THIRD, into={**LLADA, **QWEN})
def a_layer_is_left_out(code: Code) -> Context:
    """Layer 3 hands on what it is given."""
    layer = _layers(code)[2]
    forward = layer.forward

    def through(states: Tensor, *args: Any, **kwargs: Any) -> Any:
        done = forward(states, *args, **kwargs)
        return (states, *done[1:]) if isinstance(done, tuple) else states

    layer.forward = through
    return nullcontext()


@planted(
    "module-bug",
    "other-inputs: weight",
    "quantised",
    at=SECOND,
    into={**LLADA, **DINFER, **QWEN},
)
def a_matrix_in_eight_bits(code: Code) -> Context:
    """The matrix of the values in layer 2 is rounded to eight bits."""
    layer = _layers(code)[1]
    weight = layer.v_proj.weight if hasattr(layer, "v_proj") else layer.self_attn.v_proj.weight
    scale = weight.abs().amax() / 127
    weight.copy_((weight / scale).round() * scale)
    return nullcontext()


# --- the first and the last matrix ----------------------------------------------------------------


@planted(
    "module-bug",
    "other-inputs: weight",
    at=Truth(ALWAYS, (0, 1), anywhere),
    into={**LLADA, **QWEN},
)
def mask_has_no_embedding(code: Code) -> Context:
    """The row of the mask in the embedding is zero, as after the matrix was enlarged."""
    inner = _inner(code)
    table = inner.embed_tokens if hasattr(inner, "embed_tokens") else inner.transformer.wte
    table.weight[code.mask_id] = 0
    return nullcontext()


@planted("module-bug", "other-inputs: weight", at=LAST, into={**LLADA, **QWEN})
def embedding_is_used_as_the_last_matrix(code: Code) -> Context:
    """Logits are taken with the matrix of the embedding, as if the two were one."""
    inner = _inner(code)
    table = inner.embed_tokens if hasattr(inner, "embed_tokens") else inner.transformer.wte
    _head(code).weight = nn.Parameter(table.weight * 3.0, requires_grad=False)
    _head(code).weight[code.mask_id] = 0
    return nullcontext()


@planted("module-bug", at=LAST, into={**LLADA, **QWEN, **DINFER})
def logits_are_capped(code: Code) -> Context:
    """Logits are squeezed by a tanh, as in other models."""
    _after(_head(code), lambda logits: 4 * torch.tanh(logits / 4))
    return nullcontext()


@planted("module-bug", "quantised", at=LAST, into={**LLADA, **DINFER})
def logits_in_bfloat16(code: Code) -> Context:
    """The last matrix returns bfloat16."""
    _after(_head(code), _rounded)
    return nullcontext()
