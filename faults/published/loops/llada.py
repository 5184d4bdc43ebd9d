"""ML-GSAI/LLaDA: its own ``generate``, in batches, with padding and with guidance.

Its model is not in the repository; that of dllm's is the same and knows attention masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from faults.published.checkouts import load, present
from faults.published.loops.fast_dllm import read
from faults.published.loops.tiny import EOS, LLADA, MASK, padded, weights
from faults.published.right import Job, Right

REPOSITORY, MODEL = "LLaDA", "dllm"


def configurations() -> Iterator[Right]:
    """By setting."""
    settings: dict[str, dict[str, Any]] = {
        "one prompt": {},
        "three prompts, padded": {"lengths": (9, 7, 4)},
        "three prompts of one length": {"lengths": (7, 7, 7)},
        "guidance": {"cfg_scale": 0.5},
        "guidance, three prompts, padded": {"cfg_scale": 1.5, "lengths": (9, 7, 4)},
        "random": {"remasking": "random", "steps": 8},
        "temperature": {"temperature": 0.7},
        "one block": {"block_length": 16},
        "uneven steps": {"block_length": 8, "steps": 6},
        "bfloat16": {"dtype": torch.bfloat16},
        "ends may come": {"eos": True},
    }
    if present(MODEL):
        for name, setting in settings.items():
            yield Right(REPOSITORY, f"generate, {name}", partial(_job, **setting))


def model_of(dtype: torch.dtype = torch.float32, *, eos: bool = False) -> Any:
    """A LLaDA that knows attention masks."""
    packages = ("dllm", "dllm.core", "dllm.pipelines", "dllm.pipelines.llada")
    modeling, configuration = load(
        MODEL,
        *(f"dllm.pipelines.llada.models.{n}" for n in ("modeling_llada", "configuration_llada")),
        bare=(*packages, "dllm.pipelines.llada.models"),
    )
    asked = configuration.LLaDAConfig(**LLADA)
    # Its own constructor would put the network on a GPU.
    settings = modeling.create_model_config_from_pretrained_config(asked)
    network = modeling.LLaDAModel(settings, init_params=True)
    return weights(modeling.LLaDAModelLM(asked, model=network), dtype, eos=eos)


def _job(
    lengths: tuple[int, ...] = (7,),
    dtype: torch.dtype = torch.float32,
    *,
    eos: bool = False,
    **setting: Any,
) -> Job:
    [generate] = load(REPOSITORY, "generate")
    model = model_of(dtype, eos=eos)
    prompt, real = padded(*lengths)
    named = {"gen_length": 16, "block_length": 8, "steps": 16, "mask_id": MASK, **setting}
    return Job(
        model,
        lambda: generate.generate(model, prompt, real, **named),
        "generate",
        read,
        MASK,
        EOS,
    )
