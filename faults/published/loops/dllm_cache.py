"""maomaocun/dLLM-cache: features of prompt and answer are kept inside the layers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from faults.published.checkouts import load, present
from faults.published.cuts import StepContext, Variables, host, span
from faults.published.loops.llada import model_of
from faults.published.loops.tiny import EOS, MASK, padded
from faults.published.right import Job, Right

REPOSITORY, MODEL = "dLLM-cache", "dllm"


def configurations() -> Iterator[Right]:
    """By how often prompt and answer are computed anew."""
    settings: dict[str, dict[str, Any]] = {
        "no cache": {"kept": None},
        "prompt is kept": {"kept": (4, 1, 0.0)},
        "prompt and answer are kept": {"kept": (4, 2, 0.0)},
        "a quarter is renewed": {"kept": (6, 3, 0.25)},
        "a quarter is renewed, bfloat16": {"kept": (6, 3, 0.25), "dtype": torch.bfloat16},
        "two prompts": {"kept": (6, 3, 0.25), "lengths": (7, 7)},
    }
    if present(MODEL):
        for name, setting in settings.items():
            yield Right(REPOSITORY, f"llada, {name}", partial(_job, **setting))


def _job(
    kept: tuple[int, int, float] | None,
    lengths: tuple[int, ...] = (7,),
    dtype: torch.dtype = torch.float32,
) -> Job:
    cache, hooks, loop = load(
        REPOSITORY, "dllm_cache.cache", "dllm_cache.hooks", "utils.generate_function"
    )
    model = model_of(dtype)
    if kept is not None:
        prompts, answers, share = kept
        cache.dLLMCache.new_instance(prompts, answers, 1, share)
        hooks.register_cache_LLaDA(model, "model.transformer.blocks")
    prompt, real = padded(*lengths)
    named = {"gen_length": 16, "block_length": 8, "steps": 16, "mask_id": MASK}
    return Job(
        model, lambda: _whole(loop, prompt, real, model, named), "generate", _read, MASK, EOS
    )


def _whole(loop: Any, prompt: Tensor, real: Tensor, model: Any, named: dict[str, Any]) -> Tensor:
    """The whole canvas: the loop returns new tokens only."""
    answer = loop.generate(prompt, real, model, **named)
    return torch.cat([prompt, answer[:, -16:]], 1)


def _read(now: Variables, ids: Tensor) -> StepContext:
    canvas = host(now["x"])
    batch = len(canvas)
    return StepContext(
        canvas,
        span(batch, 0, canvas.shape[1]),
        now["num_block"],
        (now["start_idx"],) * batch,
        (now["end_idx"],) * batch,
    )
