"""ZHZisZZ/dllm: samplers as classes, for prompts of unequal length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from faults.published.bases.fast_dllm import llada_of
from faults.published.bases.llada import modelling
from faults.published.checkouts import load
from faults.published.code import Base, Code, Job
from faults.published.weights import EOS, MASK

_FAST = "dllm.pipelines.fastdllm.llada"
_PACKAGES = ("dllm", "dllm.core", "dllm.pipelines")


@dataclass(frozen=True)
class _Tokenizer:
    """As much of one as samplers ask for."""

    mask_token_id: int = MASK
    bos_token_id: int = 1
    eos_token_id: int = EOS


def _load(here: Mapping[str, Path]) -> dict[str, ModuleType]:
    path = str(here["dllm"])
    names = ("mdlm", "utils")
    found = load(path, *(f"dllm.core.samplers.{name}" for name in names), bare=_PACKAGES)
    return {"model": modelling(here), **dict(zip(names, found, strict=True))}


def _build(modules: Mapping[str, ModuleType], job: Job) -> Any:
    return llada_of(modules["model"], job.model)


def _run(code: Code, job: Job) -> object:
    sampler = code.modules["mdlm"].MDLMSampler(model=code.net, tokenizer=_Tokenizer())
    return sampler.sample(
        [list(prompt) for prompt in job.prompts],
        steps=job.steps,
        max_new_tokens=job.gen_length,
        block_size=job.block_length,
        **job.more,
    )


def _load_fast(here: Mapping[str, Path]) -> dict[str, ModuleType]:
    model, sampler = load(
        str(here["dllm"]),
        f"{_FAST}.models.modeling_llada",
        f"{_FAST}.sampler",
        bare=(*_PACKAGES, "dllm.pipelines.fastdllm", _FAST, f"{_FAST}.models"),
    )
    return {"model": model, "sampler": sampler}


def _build_fast(modules: Mapping[str, ModuleType], job: Job) -> Any:
    return llada_of(modules["model"], job.model, prefix="FastdLLM")


def _run_fast(code: Code, job: Job) -> object:
    sampler = code.modules["sampler"].FastdLLMLLaDASampler(model=code.net, tokenizer=_Tokenizer())
    return sampler.sample(
        [list(prompt) for prompt in job.prompts],
        steps=job.steps,
        max_new_tokens=job.gen_length,
        block_size=job.block_length,
        use_cache=job.loop,
        threshold=job.threshold,
        **job.more,
    )


DLLM = Base("dllm", ("dllm",), _load, _build, _run, ours=True)
DLLM_FAST = Base("dllm-fast", ("dllm",), _load_fast, _build_fast, _run_fast, ours=True)
