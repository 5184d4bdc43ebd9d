"""maomaocun/dLLM-cache: features of prompt and answer are kept inside the layers.

Liu et al., "dLLM-Cache" (arXiv 2506.06295). Its model is not there; that of dllm is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from faults.published.bases.llada import build, modelling
from faults.published.checkouts import load
from faults.published.code import Base, Code, Job


def _load(here: Mapping[str, Path]) -> dict[str, ModuleType]:
    names = ("dllm_cache.cache.Cache", "dllm_cache.hooks.cache_hook_LLaDA")
    found = load(str(here["dllm-cache"]), *names, "utils.generate_function")
    return {
        "model": modelling(here),
        **dict(zip(("cache", "hook", "generate"), found, strict=True)),
    }


def _build(modules: Mapping[str, ModuleType], job: Job) -> Any:
    net = build(modules, job)
    if job.loop == "cached":
        register(modules, net)
    return net


def register(modules: Mapping[str, ModuleType], net: Any) -> None:
    """Let the layers keep features; again, where a fault has changed how."""
    modules["hook"].register_cache_LLaDA(net, "model.transformer.blocks")


def _run(code: Code, job: Job) -> object:
    more = {"prompt_steps": 4, "answer_steps": 2, "share": 0.25, **job.more}
    kept = [more.pop(name) for name in ("prompt_steps", "answer_steps", "share")]
    if job.loop == "cached":
        code.modules["cache"].dLLMCache.new_instance(kept[0], kept[1], 1, kept[2])
    visible = torch.ones_like(job.ids) if job.visible is None else torch.tensor(job.visible)
    settings = {
        "steps": job.steps,
        "gen_length": job.gen_length,
        "block_length": job.block_length,
        "mask_id": code.mask_id,
    }
    loop = code.modules["generate"].generate
    return loop(job.ids, visible, code.net, **(settings | more))


DLLM_CACHE = Base("dllm-cache", ("dllm-cache", "dllm"), _load, _build, _run)
