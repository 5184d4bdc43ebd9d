"""NVlabs/Fast-dLLM for LLaDA: no cache, prefix cache, dual cache."""

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

REPOSITORY = "Fast-dLLM"


def configurations() -> Iterator[Right]:
    """By loop and setting."""
    settings: dict[str, dict[str, Any]] = {
        "fixed": {"steps": 16},
        "threshold": {"steps": 16, "threshold": 0.6},
        "two a step": {"steps": 8},
        "temperature": {"steps": 16, "temperature": 0.8},
        "random": {"steps": 8, "remasking": "random"},
        "blocks of 16": {"steps": 16, "block_length": 16},
        "blocks of 4, threshold": {"steps": 16, "block_length": 4, "threshold": 0.3},
        "bfloat16": {"steps": 16, "threshold": 0.6, "dtype": torch.bfloat16},
    }
    for loop in ("generate", "generate_with_prefix_cache", "generate_with_dual_cache"):
        for name, setting in settings.items():
            yield Right(REPOSITORY, f"llada {loop}, {name}", partial(_job, loop, **setting))


def _job(loop: str, dtype: torch.dtype = torch.float32, **setting: Any) -> Job:
    modeling, configuration, generate = load(
        REPOSITORY,
        "model.modeling_llada",
        "model.configuration_llada",
        "generate",
        under="llada",
    )
    model = modeling.LLaDAModelLM(configuration.LLaDAConfig(**LLADA), init_params=True)
    model = weights(model, dtype)
    prompt, _ = padded(7)
    named = {"gen_length": 16, "block_length": 8, "mask_id": MASK, **setting}
    return Job(
        model,
        lambda: getattr(generate, loop)(model, prompt, **named)[0],
        loop,
        read,
        MASK,
        EOS,
    )


def read(now: Variables, ids: Tensor) -> StepContext:
    """Blocks are counted by ``num_block``; partial calls begin at the block."""
    canvas = host(now["x"])
    start = now["prompt"].shape[1] + now["num_block"] * now["block_length"]
    first = 0 if ids.shape[1] == canvas.shape[1] else start
    return StepContext(
        canvas,
        span(len(canvas), first, first + ids.shape[1]),
        now["num_block"],
        (start,) * len(canvas),
        (start + now["block_length"],) * len(canvas),
    )
