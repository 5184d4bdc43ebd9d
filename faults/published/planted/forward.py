"""Faults of a forward: one operation of a layer computes something else."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faults.published.code import Code, Context, together
from faults.published.fault import planted
from faults.published.jobs import both, fixed
from faults.truth import ALWAYS, Truth, anywhere

LLADA = {"fast-dllm": both("dual")[:1] + both("plain")[1:], "llada": fixed("generate")[:1]}
DREAM = {"dream": fixed("whole", alg="entropy")[:1]}
EVERYWHERE = LLADA | DREAM | {"es-dllm": fixed("cache")[:1]}
EVEN_THERE = EVERYWHERE | {"dkv-cache": fixed("decode")[:1]}
FIRST = Truth(ALWAYS, (1,), anywhere)
THIRD = Truth(ALWAYS, (3,), anywhere)
EMBEDDING = Truth(ALWAYS, (0, 1), anywhere)
_LAST = Truth(ALWAYS, where=anywhere)


def _layers(code: Code) -> nn.ModuleList:
    inner = code.net.model
    return inner.layers if hasattr(inner, "layers") else inner.transformer.blocks


def _attention(code: Code, make: Any) -> Context:
    """Change the one function that computes attention, wherever a code base calls it from."""
    if code.base.name in ("fast-dllm", "dllm-fast"):
        return code.change("model.scaled_dot_product_attention", make)
    return code.change("model.torch.nn.functional.scaled_dot_product_attention", make)


def _changed(part: nn.Module, forward: Any) -> None:
    """Give one module of this net another forward; the net is not used again."""
    part.forward = forward


def _as_it_is(states: Tensor) -> Tensor:
    return states


# --- attention ------------------------------------------------------------------------------------


@planted("visible-set", at=FIRST, into=EVERYWHERE)
def causal_mask_left_on(code: Code) -> Context:
    """Every row sees only what stands left of it."""

    def make(attend: Any) -> Any:
        def wrong(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
            rows, keys = q.shape[-2], k.shape[-2]
            seen = torch.ones(rows, keys, dtype=torch.bool).tril(keys - rows)
            return attend(q, k, v, **(more | {"attn_mask": seen}))

        return wrong

    return _attention(code, make)


@planted("visible-set", at=FIRST, into={"llada": fixed("generate")[:1], **DREAM})
def window_of_eight(code: Code) -> Context:
    """Every row sees only eight positions to either side, as with a sliding window."""

    def make(attend: Any) -> Any:
        def wrong(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
            rows = torch.arange(k.shape[-2])
            near = (rows[:, None] - rows[None]).abs() <= 8
            return attend(q, k, v, **(more | {"attn_mask": near}))

        return wrong

    return _attention(code, make)


@planted("module-bug", at=FIRST, into=LLADA | DREAM)
def attention_scale_is_wrong(code: Code) -> Context:
    """Scores are divided by the width of a head, not by its root."""

    def make(attend: Any) -> Any:
        def wrong(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
            return attend(q / q.shape[-1] ** 0.5, k, v, **more)

        return wrong

    return _attention(code, make)


@planted("module-bug", "quantised", at=FIRST, into={"llada": fixed("generate")[:1], **DREAM})
def attention_in_bfloat16(code: Code) -> Context:
    """Queries, keys and values are rounded to bfloat16 for the attention alone."""

    def make(attend: Any) -> Any:
        def wrong(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
            rounded = (t.bfloat16().to(t.dtype) for t in (q, k, v))
            return attend(*rounded, **more)

        return wrong

    return _attention(code, make)


@planted(
    "module-bug",
    at=FIRST,
    into={"fast-dllm": both("plain", kv_heads=2), "dream": fixed("whole", alg="entropy")},
)
def heads_tiled_not_repeated(code: Code) -> Context:
    """Key heads are shared in the order 0 1 0 1 between query heads, not 0 0 1 1."""
    if code.base.name == "dream":

        def make(repeat: Any) -> Any:
            def wrong(states: Tensor, times: int) -> Tensor:
                return states.repeat(1, times, 1, 1)

            return wrong

        return code.change("model.repeat_kv", make)
    where = "model.LLaDABlock._scaled_dot_product_attention"
    times = "num_q_heads // num_kv_heads"
    return together(
        *(
            code.insert(where, f"{t} = {t}[:, :: {times}].repeat(1, {times}, 1, 1)", after=t)
            for t in ("k", "v")
        )
    )


@planted("module-bug", at=Truth(ALWAYS, (2,), anywhere), into=LLADA)
def queries_and_keys_swapped(code: Code) -> Context:
    """In layer 2 the queries are used as keys and the keys as queries."""
    where = "model.LLaDALlamaBlock.forward"
    return code.insert(where, "if self.layer_id == 1: q, k = k, q", after="k", nth=0)


@planted("module-bug", at=FIRST, into=DREAM)
def bias_of_the_keys_dropped(code: Code) -> Context:
    """The bias of the key projection is not added."""
    where = "model.DreamSdpaAttention.forward"
    less = "key_states = key_states - self.k_proj.bias"
    return code.insert(where, less, after="key_states", nth=0)


# --- positions ------------------------------------------------------------------------------------


@planted(
    "position-encoding",
    at=FIRST,
    into={"fast-dllm": both("dual")[:1], "llada": fixed("generate")[:1]},
)
def rotation_at_half_speed(code: Code) -> Context:
    """Angles are those of half the position, as with a stretched context left on."""

    def make(tables: Any) -> Any:
        def wrong(self: Any, seq_len: int, device: torch.device) -> tuple[Tensor, Tensor]:
            width = self.config.d_model // self.config.n_heads
            rates = self.rope_theta ** -(torch.arange(0, width, 2) / width)
            angles = torch.outer(torch.arange(seq_len) / 2, rates).repeat(1, 2)[None, None]
            return angles.sin(), angles.cos()

        return wrong

    return code.change("model.RotaryEmbedding.get_rotary_embedding", make)


@planted(
    "position-encoding",
    at=FIRST,
    into={"fast-dllm": fixed("plain")[:1], "es-dllm": fixed("cache")[:1]},
)
def rotation_interleaved(code: Code) -> Context:
    """Neighbouring numbers of a head are rotated as pairs, not its two halves."""

    def make(rotate: Any) -> Any:
        def wrong(self: Any, x: Tensor) -> Tensor:
            return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)

        return wrong

    return code.change("model.RotaryEmbedding.rotate_half", make)


@planted(
    "position-encoding",
    "module-bug: rot",
    at=FIRST,
    into={"fast-dllm": fixed("plain", sharp=True)[:1], "llada": fixed("generate")[:1]},
)
def rotation_in_bfloat16(code: Code) -> Context:
    """Queries and keys are rotated in bfloat16."""

    def make(rotate: Any) -> Any:
        def wrong(self: Any, sin: Tensor, cos: Tensor, t: Tensor) -> Tensor:
            rounded = (x.bfloat16() for x in (sin, cos, t))
            return rotate(self, *rounded).to(t.dtype)

        return wrong

    return code.change("model.RotaryEmbedding.apply_rotary_pos_emb", make)


# --- the rest of a layer --------------------------------------------------------------------------


@planted("module-bug", at=THIRD, into=EVEN_THERE)
def epsilon_of_one_norm(code: Code) -> Context:
    """The norm before the attention of layer 3 has another epsilon."""
    layer = _layers(code)[2]
    norm: Any = layer.attn_norm if hasattr(layer, "attn_norm") else layer.input_layernorm
    setattr(norm, "eps" if hasattr(norm, "eps") else "variance_epsilon", 0.1)
    return nullcontext()


@planted("module-bug", at=THIRD, into=LLADA)
def residual_dropped(code: Code) -> Context:
    """Layer 3 adds its MLP to nothing."""
    where = "model.LLaDALlamaBlock.forward"
    return code.insert(where, "og_x = og_x * (self.layer_id != 2)", after="og_x")


@planted("module-bug", at=THIRD, into=LLADA | DREAM)
def another_activation(code: Code) -> Context:
    """The MLP of layer 3 has a GELU where a SiLU belongs."""
    layer: Any = _layers(code)[2]
    if hasattr(layer, "mlp"):
        layer.mlp.act_fn = nn.GELU()
    else:
        _changed(layer.act, F.gelu)
    return nullcontext()


@planted("module-bug", at=EMBEDDING, into={"fast-dllm": both("plain")[:1]})
def embedding_scaled(code: Code) -> Context:
    """Embeddings are multiplied by the root of the width, as for another family of models."""
    code.net.model.config.input_emb_norm = True
    return nullcontext()


@planted("module-bug", at=_LAST, into={"fast-dllm": both("plain"), "llada": fixed("generate")[:1]})
def logits_scaled(code: Code) -> Context:
    """Logits are divided by the root of the width."""
    code.net.model.config.scale_logits = True
    return nullcontext()


@planted("module-bug", at=_LAST, into=LLADA | DREAM)
def last_norm_left_out(code: Code) -> Context:
    """The states of the last layer go into the head as they are."""
    inner = code.net.model
    _changed(inner.norm if hasattr(inner, "norm") else inner.transformer.ln_f, _as_it_is)
    return nullcontext()


# A trace that has no fingerprint of its weights shows the matrix by what it does.
@planted("other-inputs: weight", "module-bug", at=THIRD, into=LLADA | DREAM)
def weights_of_one_matrix(code: Code) -> Context:
    """One matrix of layer 3 was loaded from another checkpoint."""
    weight = [p for p in _layers(code)[2].parameters() if p.ndim == 2][-1]
    weight.mul_(1.3)
    return nullcontext()


@planted(
    "other-inputs",
    at=Truth(ALWAYS),
    into={"fast-dllm": both("dual")[:1], "dream": fixed("whole", alg="entropy")[:1]},
)
def model_in_bfloat16(code: Code) -> Context:
    """The model was loaded in bfloat16."""
    code.net.to(torch.bfloat16)
    return nullcontext()


@planted("non-finite", at=Truth(ALWAYS, (3,), anywhere), into={"llada": fixed("generate")[:1]})
def overflow_in_one_layer(code: Code) -> Context:
    """In layer 3 the scores of attention overflow, and become NaN."""
    where = "model.LLaDALlamaBlock.forward"
    return code.insert(where, "if self.layer_id == 2: q = q * 1e38 * 1e38", after="q", nth=0)
