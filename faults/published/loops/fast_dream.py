"""NVlabs/Fast-dLLM for Dream: the whole canvas by four rules, and blocks with a cache."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from faults.published.checkouts import load
from faults.published.cuts import StepContext, Variables, host, span
from faults.published.loops.tiny import DREAM, EOS, MASK, padded, weights
from faults.published.right import Job, Right

REPOSITORY = "Fast-dLLM"


def configurations() -> Iterator[Right]:
    """By rule and cache."""
    whole: dict[str, dict[str, Any]] = {
        **{f"{alg}": {"alg": alg} for alg in ("origin", "maskgit_plus", "topk_margin", "entropy")},
        "threshold": {"alg": "confidence_threshold", "threshold": 0.5},
        "entropy, temperature": {"alg": "entropy", "temperature": 0.6, "alg_temp": 0.3},
        "maskgit_plus, three prompts, padded": {"alg": "maskgit_plus", "lengths": (9, 7, 4)},
        "entropy, bfloat16": {"alg": "entropy", "dtype": torch.bfloat16},
    }
    for name, setting in whole.items():
        yield Right(REPOSITORY, f"dream, {name}", partial(_job, "generation_utils", **setting))
    for cache, dual in (("prefix", False), ("dual", True)):
        blocks: dict[str, dict[str, Any]] = {
            "threshold": {"alg": "confidence_threshold", "threshold": 0.5},
            "entropy": {"alg": "entropy"},
            "blocks of 4": {"alg": "confidence_threshold", "threshold": 0.5, "block_length": 4},
            "two prompts": {"alg": "entropy", "lengths": (7, 7)},
            "bfloat16": {"alg": "entropy", "dtype": torch.bfloat16},
        }
        if dual:
            del blocks["two prompts"]  # its scatter into the cache takes one prompt only
        for name, setting in blocks.items():
            named = {"block_length": 8, "dual_cache": dual, **setting}
            made = partial(_job, "generation_utils_block", **named)
            yield Right(REPOSITORY, f"dream {cache}, {name}", made)


def _job(
    file: str, lengths: tuple[int, ...] = (7,), dtype: Any = torch.float32, **setting: Any
) -> Job:
    modeling, configuration, generation = load(
        REPOSITORY,
        "model.modeling_dream",
        "model.configuration_dream",
        f"model.{file}",
        under="dream",
    )
    model: Any = weights(modeling.DreamModel(configuration.DreamConfig(**DREAM)), dtype)
    for name in ("diffusion_generate", "_sample"):
        setattr(model, name, MethodType(getattr(generation.DreamGenerationMixin, name), model))
    prompt, real = padded(*lengths)
    named = {
        "max_new_tokens": 16,
        "steps": 16,
        "temperature": 0.0,
        "return_dict_in_generate": True,
        **setting,
    }
    return Job(
        model,
        lambda: model.diffusion_generate(prompt, attention_mask=real, **named).sequences,
        "_sample",
        read,
        MASK,
        EOS,
    )


def read(now: Variables, ids: Tensor) -> StepContext:
    """Blocks have bounds of their own; without blocks the whole answer is one."""
    canvas, begin = host(now["x"]), now["input_ids"].shape[1]
    start = now.get("current_block_start", begin)
    first = 0 if ids.shape[1] == canvas.shape[1] else start
    return StepContext(
        canvas,
        span(len(canvas), first, first + ids.shape[1]),
        now.get("num_block", 0),
        (start,) * len(canvas),
        (now.get("current_block_end", canvas.shape[1]),) * len(canvas),
    )
