"""ML-GSAI/LLaDA: its ``generate``. Its model is not there; that of dllm is the same, and is taken.

Nie et al., "Large Language Diffusion Models" (arXiv 2502.09992).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from faults.published.bases.fast_dllm import llada_of
from faults.published.checkouts import load
from faults.published.code import Base, Code, Job

_PACKAGES = ("dllm", "dllm.core", "dllm.pipelines", "dllm.pipelines.llada")


def modelling(here: Mapping[str, Path]) -> ModuleType:
    """The model of dllm, without what its packages import besides."""
    name = "dllm.pipelines.llada.models"
    (model,) = load(str(here["dllm"]), f"{name}.modeling_llada", bare=(*_PACKAGES, name))
    return model


def build(modules: Mapping[str, ModuleType], job: Job) -> Any:
    """A LLaDA that knows attention masks."""
    return llada_of(modules["model"], job.model)


def _load(here: Mapping[str, Path]) -> dict[str, ModuleType]:
    (generate,) = load(str(here["llada"]), "generate")
    return {"model": modelling(here), "generate": generate}


def _run(code: Code, job: Job) -> object:
    visible = None if job.visible is None else torch.tensor(job.visible)
    if "cfg_scale" in job.more and visible is None:
        # Its guidance needs a mask even where nothing is hidden.
        visible = torch.ones_like(job.ids)
    settings: dict[str, object] = {
        "steps": job.steps,
        "gen_length": job.gen_length,
        "block_length": job.block_length,
        "mask_id": code.mask_id,
        "attention_mask": visible,
    }
    return code.modules["generate"].generate(code.net, job.ids, **(settings | job.more))


LLADA = Base("llada", ("llada", "dllm"), _load, build, _run, ours=True)
