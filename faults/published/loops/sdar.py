"""JetAstra/SDAR: each block is decoded on its own behind a cache of those before it.

Its model needs a GPU; a model of dllm's stands for it, with the one argument that it has more.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from faults.published.bases.sdar import Storing, modelling, qwen
from faults.published.checkouts import load, present
from faults.published.cuts import StepContext, Variables, host
from faults.published.loops.tiny import EOS, MASK, QWEN, padded, weights
from faults.published.right import Job, Right

REPOSITORY, MODEL = "SDAR", "dllm"


def configurations() -> Iterator[Right]:
    """By rule."""
    static = {"remasking_strategy": "low_confidence_static"}
    settings: dict[str, dict[str, Any]] = {
        "static": static,
        "dynamic": {"confidence_threshold": 0.2},
        "sequential": {"remasking_strategy": "sequential"},
        "prompt of whole blocks": {"confidence_threshold": 0.2, "length": 8},
        "prompt within a block": {"confidence_threshold": 0.2, "length": 5},
        "two steps a block": {**static, "denoising_steps": 2},
        "prompt of many blocks": {"confidence_threshold": 0.1, "length": 27},
        "prompt of many blocks, static": {**static, "length": 19, "denoising_steps": 4},
        "blocks of 4": {"confidence_threshold": 0.15, "block_length": 4},
        "steps do not divide": {**static, "denoising_steps": 3},
        "four best tokens": {"confidence_threshold": 0.4, "top_k": 4, "top_p": 0.9},
        "bfloat16": {"confidence_threshold": 0.1, "dtype": torch.bfloat16},
    }
    if present(MODEL):
        for name, setting in settings.items():
            yield Right(REPOSITORY, f"block diffusion, {name}", partial(_job, **setting))


def _job(length: int = 11, dtype: torch.dtype = torch.float32, **setting: Any) -> Job:
    [loop] = load(REPOSITORY, "generate")
    model = Storing(weights(qwen(modelling(MODEL), QWEN), dtype))
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


def _read(now: Variables, ids: Tensor) -> StepContext:
    """The prefix is a call of its own; the canvas has a block once the block is done."""
    canvas, size = host(now["x"]), now["block_length"]
    first = now.get("num_block", 0) * size
    if "num_block" in now:
        canvas[:, first : first + size] = host(now["cur_x"])
    block = max(0, now.get("num_block", 0) - now["prefill_blocks"])
    start = max(now["prompt_length"], (now["prefill_blocks"] + block) * size)
    rows = torch.arange(first, first + ids.shape[1])[None]
    return StepContext(
        canvas, host(rows), block, (start,), ((now["prefill_blocks"] + block + 1) * size,)
    )
