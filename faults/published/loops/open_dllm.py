"""pengzhangzhi/Open-dLLM: the whole canvas, and a rule that masks tokens again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from faults.published.bases.open_dllm import generation, give_loop
from faults.published.bases.sdar import modelling, qwen
from faults.published.checkouts import present
from faults.published.cuts import StepContext, Variables, host, span
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
        "p2, temperature": {"alg": "p2", "temperature": 0.6},
        "p2, bfloat16": {"alg": "p2", "dtype": torch.bfloat16},
        "p2, three prompts, padded": {"alg": "p2", "lengths": (9, 7, 4)},
        "topk_margin": {"alg": "topk_margin", "steps": 8},
        "entropy, three prompts, padded": {"alg": "entropy", "lengths": (9, 7, 4)},
        "maskgit_plus, order is drawn": {"alg": "maskgit_plus", "alg_temp": 0.4},
        "entropy, long prompt": {"alg": "entropy", "lengths": (29,), "steps": 7},
    }
    if present(MODEL):
        for name, setting in settings.items():
            yield Right(REPOSITORY, f"qwen2, {name}", partial(_job, **setting))


def _job(lengths: tuple[int, ...] = (7,), dtype: Any = torch.float32, **setting: Any) -> Job:
    module = generation(REPOSITORY)
    model: Any = weights(qwen(modelling(MODEL), QWEN), dtype)
    give_loop(model, module)
    prompt, _ = padded(*lengths)
    asked = module.MDMGenerationConfig(
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


def _read(now: Variables, ids: Tensor, prompt: int) -> StepContext:
    canvas = host(now["x"])
    batch, length = canvas.shape
    return StepContext(canvas, span(batch, 0, length), 0, (prompt,) * batch, (length,) * batch)
