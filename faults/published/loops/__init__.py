"""Configurations of published loops, by repository; all of them are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from faults.published.loops import dllm, fast_dllm, fast_dream, llada
from faults.published.right import Right

ALL: tuple[tuple[str, Callable[[], Iterator[Right]]], ...] = tuple(
    (module.REPOSITORY, module.configurations) for module in (fast_dllm, fast_dream, llada, dllm)
)
