"""JetAstra/SDAR: each block is decoded on its own behind a cache of those before it.

Its model needs a GPU; a model of dllm's stands for it, with the one argument that it has more.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from faults.published.checkouts import load, present
from faults.published.cuts import Moment, Variables, host
from faults.published.loops.tiny import EOS, MASK, QWEN, padded, weights
from faults.published.right import Job, Right

REPOSITORY, MODEL = "SDAR", "dllm"


def configurations() -> Iterator[Right]:
    """By rule."""
    settings: dict[str, dict[str, Any]] = {
        "static": {"remasking_strategy": "low_confidence_static"},
        "dynamic": {"confidence_threshold": 0.2},
        "sequential": {"remasking_strategy": "sequential"},
        "prompt of whole blocks": {"confidence_threshold": 0.2, "length": 8},
        "prompt within a block": {"confidence_threshold": 0.2, "length": 5},
        "two steps a block": {"remasking_strategy": "low_confidence_static", "denoising_steps": 2},
    }
    if present(MODEL):
        for name, setting in settings.items():
            yield Right(REPOSITORY, f"block diffusion, {name}", partial(_job, **setting))


class Storing(nn.Module):
    """A model whose calls add to their cache only where they are asked to."""

    def __init__(self, inner: Any) -> None:
        """Wrap a model that always adds."""
        super().__init__()
        self.inner = inner
        self.config, self.device = inner.config, inner.device

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: Any,
        use_cache: bool = True,
        store_kv: bool = False,
    ) -> Any:
        """Logits of the rows, behind what the cache has."""
        cache = past_key_values if store_kv else copy.deepcopy(past_key_values)
        return self.inner(
            input_ids,
            attention_mask=attention_mask[:, None].bool(),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=use_cache,
        )


def _job(length: int = 11, **setting: Any) -> Job:
    [loop] = load(REPOSITORY, "generate")
    packages = ("dllm", "dllm.core", "dllm.pipelines", "dllm.pipelines.a2d")
    [qwen] = load(
        MODEL,
        "dllm.pipelines.a2d.models.qwen2.modeling_qwen2",
        bare=(*packages, "dllm.pipelines.a2d.models"),
    )
    model = Storing(weights(qwen.A2DQwen2LMHeadModel(qwen.A2DQwen2Config(**QWEN))))
    prompt, _ = padded(length)
    named = {"gen_length": 16, "block_length": 8, "denoising_steps": 8, "temperature": 0.7}
    return Job(
        model,
        lambda: loop.block_diffusion_generate(
            model, {"input_ids": prompt}, MASK, **{**named, **setting}
        ),
        "block_diffusion_generate",
        _read,
        MASK,
        EOS,
    )


def _read(now: Variables, ids: Tensor) -> Moment:
    """The prefix is a call of its own; the canvas has a block once the block is done."""
    canvas, size = host(now["x"]), now["block_length"]
    first = now.get("num_block", 0) * size
    if "num_block" in now:
        canvas[:, first : first + size] = host(now["cur_x"])
    block = max(0, now.get("num_block", 0) - now["prefill_blocks"])
    start = max(now["prompt_length"], (now["prefill_blocks"] + block) * size)
    rows = torch.arange(first, first + ids.shape[1])[None]
    return Moment(
        canvas, host(rows), block, (start,), ((now["prefill_blocks"] + block + 1) * size,)
    )
