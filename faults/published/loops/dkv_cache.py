"""horseee/dKV-Cache: keys of tokens are kept a step after these are known; others are gathered."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from faults.published.checkouts import load
from faults.published.cuts import StepContext, Variables, host, span
from faults.published.loops.tiny import EOS, LLADA, MASK, padded, weights
from faults.published.right import Job, Right

REPOSITORY = "dKV-Cache"


def configurations() -> Iterator[Right]:
    """By how often all rows are computed."""
    settings: dict[str, dict[str, Any]] = {
        "no cache": {"enable_cache": False},
        "cache for 2 steps": {"cache_reloading_step": 2},
        "cache for 4 steps": {"cache_reloading_step": 4},
        "cache, two prompts": {"cache_reloading_step": 4, "lengths": (7, 7)},
        "cache, bfloat16": {"cache_reloading_step": 4, "dtype": torch.bfloat16},
    }
    for name, setting in settings.items():
        yield Right(REPOSITORY, f"llada decode, {name}", partial(_job, **setting))


def _job(lengths: tuple[int, ...] = (7,), dtype: Any = torch.float32, **setting: Any) -> Job:
    modeling, configuration, loop = load(
        REPOSITORY,
        "models.modeling_llada_dkv_cache_decode",
        "models.configuration_llada",
        "generation_utils.llada_dkv_cache_decode",
        bare=("models", "generation_utils"),
    )
    model = modeling.LLaDAModelLM(configuration.LLaDAConfig(**LLADA), init_params=True)
    model = weights(model, dtype)
    prompt, _ = padded(*lengths)
    named = {
        "gen_length": 16,
        "block_length": 8,
        "steps": 16,
        "mask_id": MASK,
        "enable_cache": True,
        **setting,
    }
    return Job(
        model,
        lambda: loop.generate(model, None, prompt, **named),
        "generate",
        _read,
        MASK,
        EOS,
    )


def _read(now: Variables, ids: Tensor) -> StepContext:
    """Rows are those that were not known two steps ago."""
    canvas = host(now["x"])
    batch, length = canvas.shape
    rows = span(batch, 0, length)
    if ids.shape[1] < length:
        rows = rows[~host(now["prv_transfer_idx"]).astype(bool)].reshape(batch, -1)
    start = now["prompt"].shape[1] + now["num_block"] * now["block_length"]
    stop = start + now["block_length"]
    return StepContext(canvas, rows, now["num_block"], (start,) * batch, (stop,) * batch)
