"""Kamichanw/d2Cache: caches as classes that choose rows inside a forward.

Jiang et al., "d2Cache" (arXiv 2509.23094).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor

from faults.published.checkouts import load
from faults.published.code import Base, Code, Job
from faults.published.weights import EOS
from skipstone.bench.peers.fast_dllm import published_config

_UNDER = "src"
_PACKAGES = (_UNDER, "src.models", "src.models.llada", "src.models.dream", "src.generation")
_MODULES = {
    "model": "src.models.llada.modeling_llada",
    "configuration": "src.models.llada.configuration_llada",
    "prefix": "src.cache.prefix_cache",
    "cache": "src.cache.base",
    "dllm_cache": "src.cache.dllm_cache",
    "d2cache": "src.cache.d2cache",
    "sampling": "src.generation.utils",
    "generate": "src.generation.vanilla",
}
# What its evaluations need, and no loop.
_STANDINS = (
    "accelerate.utils",
    "dotenv",
    "hydra.core.hydra_config",
    "hydra.utils",
    "loguru",
    "omegaconf",
)


def _load(here: Mapping[str, Path]) -> dict[str, ModuleType]:
    # It looks for some of them itself, and must find what is really there.
    import_module("transformers.modeling_utils")
    absent = {part for name in _STANDINS for part in _parts(name)} - sys.modules.keys()
    sys.modules.update({name: MagicMock() for name in absent})
    try:
        found = load(str(here["d2cache"]), *_MODULES.values(), bare=_PACKAGES)
    finally:
        for name in absent:
            del sys.modules[name]
    return dict(zip(_MODULES, found, strict=True))


def _as_they_are(_: object, logits: Tensor) -> Tensor:
    return logits


def _parts(name: str) -> list[str]:
    words = name.split(".")
    return [".".join(words[: stop + 1]) for stop in range(len(words))]


def _build(modules: Mapping[str, ModuleType], job: Job) -> Any:
    config = published_config(modules["configuration"].LLaDAConfig, job.model.config)
    config.use_cache = False
    # Only weights of attention tell this cache which rows matter.
    config._attn_implementation = "eager" if job.loop == "d2cache" else "sdpa"
    net = modules["model"].LLaDAModelLM(config)
    net.load_state_dict(job.model.network.published(), strict=True)
    return net


def _run(code: Code, job: Job) -> object:
    caches = {
        "plain": None,
        "prefix": code.modules["prefix"].PrefixCache,
        "dual": partial(code.modules["prefix"].PrefixCache, use_dual=True),
        "dllm-cache": partial(code.modules["dllm_cache"].dLLMCache, kp=6, kr=3),
        "d2cache": partial(code.modules["d2cache"].d2Cache, current_k=6),
    }
    settings: dict[str, object] = {
        "attention_mask": None if job.visible is None else torch.tensor(job.visible),
        "block_length": job.block_length,
        "gen_length": job.gen_length,
        "num_transfer_tokens": 1,
        "mask_token_id": code.mask_id,
        "eos_token_id": EOS,
        "threshold": job.threshold,
        "cache_cls": caches[job.loop],
    }
    # It imports its classes anew in each step, to see that this is no Dream.
    same = patch.object(code.modules["generate"], "prepare_logits_for_generation", _as_they_are)
    ids = {"MASK_TOKEN_ID": str(code.mask_id), "EOS_TOKEN_ID": str(EOS)}
    with same, patch.dict("os.environ", ids):
        return code.modules["generate"].vanilla_generate(code.net, job.ids, **(settings | job.more))


D2CACHE = Base("d2cache", ("d2cache",), _load, _build, _run, ours=True)
