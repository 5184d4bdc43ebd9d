"""horseee/dKV-Cache for LLaDA: keys are cached a step after their token was committed.

Ma et al., "dKV-Cache" (arXiv 2505.15781).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from faults.published.bases.fast_dllm import llada_of
from faults.published.checkouts import load
from faults.published.code import Base, Code, Job


def _load(here: Mapping[str, Path]) -> dict[str, ModuleType]:
    names = ("models.modeling_llada_dkv_cache_decode", "generation_utils.llada_dkv_cache_decode")
    bare = ("models", "generation_utils")
    found = load(str(here["dkv-cache"]), *names, bare=bare)
    return dict(zip(("model", "generate"), found, strict=True))


def _build(modules: Mapping[str, ModuleType], job: Job) -> Any:
    return llada_of(modules["model"], job.model)


def _run(code: Code, job: Job) -> object:
    settings: dict[str, object] = {
        "steps": job.steps,
        "gen_length": job.gen_length,
        "block_length": job.block_length,
        "mask_id": code.mask_id,
        "enable_cache": True,
        "cache_reloading_step": 4,
    }
    loop = code.modules["generate"].generate
    return loop(code.net, None, job.ids, **(settings | job.more))


DKV_CACHE = Base("dkv-cache", ("dkv-cache",), _load, _build, _run)
