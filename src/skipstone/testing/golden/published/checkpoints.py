"""Which reader knows the cases of an architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenCase, InexpressibleError
from skipstone.testing.golden.published import (
    dinfer,
    dream,
    fast_dllm,
    llada,
    llada2,
    sdar,
    stable_diffcoder,
)

Reader = Callable[[str, Mapping[str, Any]], Iterator[GoldenCase]]

READERS: dict[str, Reader] = {
    "DreamModel": dream.dream,
    "ILLaDAForCausalLM": llada.illada,
    "LLaDA2MoeModelLM": llada2.llada2,
    "LLaDAMoEModelLM": dinfer.llada_moe,
    "LLaDAModelLM": fast_dllm.llada,
    "SDARForCausalLM": sdar.sdar,
    "StableDiffcoderForCausalLM": stable_diffcoder.stable_diffcoder,
}


def kind(case: Mapping[str, Any]) -> str:
    """What was run, where the case says so."""
    return str(case.get("kind") or case.get("function") or "generate").rpartition(":")[2]


def read(architecture: str, name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """The cases that a recorded one stands for.

    Raises:
        InexpressibleError: nobody knows the architecture.
    """
    reader = READERS.get(architecture)
    if reader is None:
        raise InexpressibleError(f"no reader knows the cases of architecture {architecture!r}")
    yield from reader(name, case)
