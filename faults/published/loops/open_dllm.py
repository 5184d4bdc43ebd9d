"""pengzhangzhi/Open-dLLM: the whole canvas, and a rule that masks tokens again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from faults.published.checkouts import load, present
from faults.published.cuts import Moment, Variables, host, span
from faults.published.loops.tiny import EOS, MASK, QWEN, padded, weights
from faults.published.right import Job, Right

REPOSITORY, MODEL = "Open-dLLM", "dllm"


def configurations() -> Iterator[Right]:
    """By rule."""
    settings: dict[str, dict[str, Any]] = {
        "p2": {"alg": "p2"},
        "p2, two prompts": {"alg": "p2", "lengths": (7, 7)},
        "entropy": {"alg": "entropy"},
        "origin, temperature": {"alg": "origin", "temperature": 0.7},
        "maskgit_plus, bfloat16": {"alg": "maskgit_plus", "dtype": torch.bfloat16},
    }
    if present(MODEL):
        for name, setting in settings.items():
            yield Right(REPOSITORY, f"qwen2, {name}", partial(_job, **setting))


def _job(lengths: tuple[int, ...] = (7,), dtype: Any = torch.float32, **setting: Any) -> Job:
    [generation] = load(
        REPOSITORY,
        "veomni.models.transformers.qwen2.generation_utils",
        bare=(
            "veomni",
            "veomni.models",
            "veomni.models.transformers",
            "veomni.models.transformers.qwen2",
        ),
    )
    packages = ("dllm", "dllm.core", "dllm.pipelines", "dllm.pipelines.a2d")
    [qwen] = load(
        MODEL,
        "dllm.pipelines.a2d.models.qwen2.modeling_qwen2",
        bare=(*packages, "dllm.pipelines.a2d.models"),
    )
    model: Any = weights(qwen.A2DQwen2LMHeadModel(qwen.A2DQwen2Config(**QWEN)), dtype)
    mixin = generation.MDMGenerationMixin
    for name in ("diffusion_generate", "_mdm_sample", "_mdm_prepare_generation_config"):
        setattr(model, name, MethodType(getattr(mixin, name), model))
    model._expand_inputs_for_generation = mixin._expand_inputs_for_generation
    prompt, _ = padded(*lengths)
    asked = generation.MDMGenerationConfig(
        **{
            "mask_token_id": MASK,
            "pad_token_id": 0,
            "max_new_tokens": 16,
            "steps": 16,
            "return_dict_in_generate": True,
            **setting,
        }
    )
    return Job(
        model,
        lambda: model.diffusion_generate(prompt, asked).sequences,
        "_mdm_sample",
        partial(_read, prompt=prompt.shape[1]),
        MASK,
        EOS,
    )


def _read(now: Variables, ids: Tensor, prompt: int) -> Moment:
    canvas = host(now["x"])
    batch, length = canvas.shape
    return Moment(canvas, span(batch, 0, length), 0, (prompt,) * batch, (length,) * batch)
