"""zhuzj19/ES-dLLM for LLaDA: a cache by position ids, and rows that leave early."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch

from faults.published.bases.fast_dllm import llada_of
from faults.published.bases.llada import modelling
from faults.published.checkouts import load
from faults.published.code import Base, Code, Job


def _load(here: Mapping[str, Path]) -> dict[str, ModuleType]:
    names = ("models.llada_func", "models.hook_model", "generate", "early_skipping")
    found = load(str(here["es-dllm"]), *names)
    short = (name.rpartition(".")[2] for name in names)
    return {"model": modelling(here), **dict(zip(short, found, strict=True))}


def _build(modules: Mapping[str, ModuleType], job: Job) -> Any:
    net = llada_of(modules["model"], job.model)
    modules["hook_model"].transform_llada_model(net)
    return net


def _run(code: Code, job: Job) -> object:
    # Its caches are always in bfloat16.
    code.net.to(torch.bfloat16)
    visible = torch.ones(job.ids.shape) if job.visible is None else torch.tensor(job.visible)
    settings: dict[str, object] = {
        "gen_length": job.gen_length,
        "block_length": job.block_length,
        "temperature": 0.0,
        "cfg_scale": 0.0,
        "use_kvcache": True,
        "token_per_step": 1,
        "threshold": job.threshold,
        "parallel_mode": job.threshold is not None,
        "sparse_kv": 1.0,
        "delay_step": 1,
        "print_log": False,
        "record_time": False,
        "statistics": False,
        "delay_eos_generation": False,
    }
    if job.loop == "skip":
        settings |= {
            "block_update_freq": 4,
            "prompt_update_freq": 8,
            "ESdLLM_mode": "HiddenState",
            "importance_score_alpha": 0.5,
            "proportion_steps": [(1.0, 0.0), (0.5, 0.5)],
        }
    ids = {"mask_id": code.mask_id, "eos_token": code.eos_id}
    with ExitStack() as stack:
        # It waits for a GPU, and it has the ids of the published models written into it.
        stack.enter_context(patch.object(torch.cuda, "synchronize"))
        for name, value in ids.items():
            stack.enter_context(
                code.insert("generate.batch_generate", f"{name} = {value}", after=name)
            )
        return code.modules["generate"].batch_generate(
            code.net, job.ids, visible, settings | job.more
        )


ES_DLLM = Base("es-dllm", ("es-dllm", "dllm"), _load, _build, _run)
