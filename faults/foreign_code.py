"""Other people's code for the bench: models, loops, and what can be wrong with them.

Shape letters: B batch (1), L canvas length, R rows, T keys, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skipstone
from faults.engine.instead import instead
from skipstone.foreign.attach.layers import find_layers
from skipstone.models.load import Model
from skipstone.skip import CosineSkip
from skipstone.testing.tiny import tiny_model
from specimens import bare, decode, hf_style, llada_style
from specimens.parts import rotate

Style = Literal["llada", "hf", "bare"]


@dataclass(frozen=True)
class Job:
    """What is decoded, and how."""

    prompt: tuple[int, ...]
    gen_length: int
    block_length: int
    threshold: float | None
    skip: CosineSkip
    """What a loop skips that skips at all."""
    mask_id: int
    eos_id: int

    @property
    def ids(self) -> Tensor:
        """The prompt, int64 [1, P]."""
        return torch.tensor([self.prompt])


Loop = Callable[[nn.Module, Job], object]
"""Decodes a job with a foreign model."""

Build = Callable[[Model], nn.Module]
"""A foreign model with the weights of ours."""


# --- models ---------------------------------------------------------------------------------------


@cache
def model(name: str) -> Model:
    """Ours, whose weights the foreign models have: ``random``, ``ending``, ``certain``, ``pebble``.

    ``ending`` is a random model that likes to end, ``certain`` one whose probabilities are 1.
    """
    if name == "pebble":
        return skipstone.load(name, device="cpu")
    if name == "random":
        return tiny_model()
    made = tiny_model(4, norm_noise=0.2, eos_scale=2.5 if name == "ending" else 1.0)
    if name == "certain":
        made.network.published()["model.transformer.ff_out.weight"].mul_(60.0)
    return made


STYLES: Mapping[Style, Build] = {
    "llada": partial(llada_style.from_model, aligned=True, similarity_dtype=torch.float32),
    "hf": hf_style.from_model,
    "bare": bare.from_model,
}
"""Correct models."""


def misaligned(ours: Model) -> nn.Module:
    """The skip compares row j with row j, whatever positions these are."""
    return llada_style.from_model(ours, similarity_dtype=torch.float32)


def coarse(ours: Model) -> nn.Module:
    """The skip computes its cosines in bfloat16."""
    return llada_style.from_model(ours, aligned=True, similarity_dtype=torch.bfloat16)


def bent(style: Style) -> Build:
    """What the last matrix of layer 3 gives is scaled; its weights are those of the model."""

    def scaled(_: nn.Module, __: object, out: Tensor) -> Tensor:
        return out * 1.1

    def build(ours: Model) -> nn.Module:
        net = STYLES[style](ours)
        linear = [m for m in find_layers(net)[2].modules() if isinstance(m, nn.Linear)][-1]
        linear.register_forward_hook(scaled)
        return net

    return build


# --- loops ----------------------------------------------------------------------------------------


def plain(net: nn.Module, job: Job, *, finish: bool = True) -> Tensor:
    """No cache, in any style."""
    return decode.plain(
        net,
        job.ids,
        job.mask_id,
        gen_length=job.gen_length,
        block_length=job.block_length,
        threshold=job.threshold,
        finish=finish,
    )


def lower_threshold(net: nn.Module, job: Job) -> Tensor:
    """No cache, and not the threshold that was asked for."""
    return plain(net, replace(job, threshold=0.2))


def dual(net: nn.Module, job: Job, *, fault: decode.DualFault = "none") -> Tensor:
    """Dual cache."""
    assert isinstance(net, llada_style.LLaDAModelLM)
    return decode.dual_cache(
        net,
        job.ids,
        gen_length=job.gen_length,
        block_length=job.block_length,
        threshold=job.threshold,
        fault=fault,
    )


def skipping(net: nn.Module, job: Job) -> Tensor:
    """Dual cache and token skip."""
    assert isinstance(net, llada_style.LLaDAModelLM)
    return decode.dual_cache(
        net,
        job.ids,
        gen_length=job.gen_length,
        block_length=job.block_length,
        threshold=job.threshold,
        skip_layer_k=job.skip.skip_layer_k,
        skip_threshold=job.skip.skip_threshold,
        skip_outlier=job.skip.skip_outlier,
    )


def lower_skip_threshold(net: nn.Module, job: Job) -> Tensor:
    """Token skip, and not the threshold that was asked for."""
    lower = job.skip.skip_threshold - 0.2
    return skipping(net, replace(job, skip=replace(job.skip, skip_threshold=lower)))


def prefix(net: nn.Module, job: Job, *, shift: int = 0) -> Tensor:
    """Prefix cache."""
    assert isinstance(net, hf_style.HFModelForMaskedLM)
    return decode.prefix_cache(
        net,
        job.ids,
        gen_length=job.gen_length,
        block_length=job.block_length,
        threshold=job.threshold,
        shift=shift,
    )


@torch.no_grad()
def never_refreshed(net: nn.Module, job: Job) -> Tensor:
    """A prefix cache that is extended with what the last step of a block computed.

    The tokens that this step committed were still masks in it.
    """
    assert isinstance(net, hf_style.HFModelForMaskedLM)
    canvas = decode.start_canvas(job.ids, job.gen_length, job.mask_id)
    kept: tuple[hf_style.KeyValue, ...] | None = None
    for start, stop in decode.blocks(job.ids, job.gen_length, job.block_length):
        first = 0 if kept is None else start
        past = kept
        for step in range(stop - start):
            masked = canvas[:, start:stop] == job.mask_id
            if not masked.any():
                break
            out = net(canvas[:, first:], past_key_values=past, use_cache=True)
            assert out.past_key_values is not None
            kept = _cut(out.past_key_values, stop)
            past = _cut(out.past_key_values, start) if past is None else past
            logits = out.logits[:, start - first : stop - first]
            share = decode.share_of(canvas, start, stop, job.mask_id, stop - start - step)
            token, commit = decode.choose(logits, masked, job.mask_id, share, job.threshold)
            canvas[:, start:stop] = torch.where(commit, token, canvas[:, start:stop])
            first = start
    return canvas


def _cut(past: tuple[hf_style.KeyValue, ...], length: int) -> tuple[hf_style.KeyValue, ...]:
    return tuple((k[:, :, :length], v[:, :, :length]) for k, v in past)


@torch.no_grad()
def ends_at_eos(net: nn.Module, job: Job) -> Tensor:
    """No cache; everything ends at the first EOS, with masks before it."""
    canvas = decode.start_canvas(job.ids, job.gen_length, job.mask_id)
    for start, stop in decode.blocks(job.ids, job.gen_length, job.block_length):
        for step in range(stop - start):
            masked = canvas == job.mask_id
            masked[:, stop:] = False
            if not masked.any():
                break
            out = net(canvas)
            logits = out if isinstance(out, Tensor) else out.logits
            share = decode.share_of(canvas, start, stop, job.mask_id, stop - start - step)
            token, commit = decode.choose(logits, masked, job.mask_id, share, job.threshold)
            canvas = torch.where(commit, token, canvas)
            if (canvas[:, start:stop] == job.eos_id).any():
                return canvas
    return canvas


def step_twice(net: nn.Module, job: Job, *, separate: bool = False) -> object:
    """One step by hand under two skip thresholds, from one cache unless ``separate``."""
    assert isinstance(net, llada_style.LLaDAModelLM)
    return decode.single_step_twice(
        net,
        job.ids,
        (1.0, job.skip.skip_threshold),
        skip_layer_k=job.skip.skip_layer_k,
        gen_length=job.gen_length,
        block_length=job.block_length,
        separate=separate,
    )


# --- faults around a loop -------------------------------------------------------------------------


@contextmanager
def coarse_confidence() -> Generator[None]:
    """The softmax behind the confidence is taken in bfloat16."""
    choose = decode.choose

    def wrong(
        logits: Tensor,
        masked: Tensor,
        mask_id: int,
        share: int,
        threshold: float | None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:
        return choose(logits, masked, mask_id, share, threshold, torch.bfloat16)

    with instead(decode, "choose", wrong):
        yield


@contextmanager
def causal() -> Generator[None]:
    """Every row sees only what stands left of it."""
    attend = F.scaled_dot_product_attention

    def wrong(
        q_BHRE: Tensor,
        k_BHTE: Tensor,
        v_BHTE: Tensor,
        attn_mask: Tensor | None = None,
        *,
        enable_gqa: bool = False,
    ) -> Tensor:
        rows, keys = q_BHRE.shape[2], k_BHTE.shape[2]
        seen_RT = torch.ones(rows, keys, dtype=torch.bool).tril(keys - rows)
        return attend(q_BHRE, k_BHTE, v_BHTE, attn_mask=seen_RT, enable_gqa=enable_gqa)

    def mix(self: bare.Slab, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (self.heads + 2 * self.kv_heads, -1)).permute(0, 2, 1, 3)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        out = wrong(rotate(q, cos, sin), rotate(k, cos, sin), v, enable_gqa=True)
        return self.out(out.permute(0, 2, 1, 3).flatten(2))

    with (
        instead(F, "scaled_dot_product_attention", wrong),
        instead(bare.Slab, "mix", mix),
    ):
        yield
