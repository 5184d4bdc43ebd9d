"""Configurations of published loops, by repository; all of them are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from faults.published.loops import (
    dinfer,
    dkv_cache,
    dllm,
    dllm_cache,
    dllm_moe,
    es_dllm,
    fast_dllm,
    fast_dream,
    llada,
    open_dllm,
    sdar,
)
from faults.published.right import Right

_MODULES = (
    fast_dllm,
    fast_dream,
    llada,
    dllm,
    dllm_moe,
    es_dllm,
    dllm_cache,
    open_dllm,
    dkv_cache,
    sdar,
    dinfer,
)

ALL: tuple[tuple[str, Callable[[], Iterator[Right]]], ...] = tuple(
    (module.REPOSITORY, module.configurations) for module in _MODULES
)
