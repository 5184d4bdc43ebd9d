"""Sparse-dLLM (OpenMOSS/Sparse-dLLM 3fd8986), with LLaDA's fixed schedule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenCase
from skipstone.testing.golden.published.stepwise import stepwise


def sparse(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """A share of the keys outside each block is kept."""
    params = case["params"]
    # Without a kernel nothing is pooled.
    kernel = 1 if params["kernel_size"] is None else params["kernel_size"]
    rule = {
        "cache": f"sparse:keep_ratio={params['keep_ratio']!r},kernel_size={kernel},ties=torch",
        "unmask": "fixed",
        "steps": str(case["gen_length"] // params["tokens_per_step"]),
    }
    yield stepwise(name, "sparse_dllm", case, rule)
