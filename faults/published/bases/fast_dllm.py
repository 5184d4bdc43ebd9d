"""NVlabs/Fast-dLLM for LLaDA: Wu et al., "Fast-dLLM" (arXiv 2505.22618)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from faults.published.checkouts import load
from faults.published.code import Base, Code, Job
from skipstone.bench.peers.fast_dllm import published_config
from skipstone.models.load import Model

_LOOPS = {
    "plain": "generate",
    "prefix": "generate_with_prefix_cache",
    "dual": "generate_with_dual_cache",
}


def _load(here: Mapping[str, Path]) -> dict[str, ModuleType]:
    names = ("model.modeling_llada", "generate")
    model, generate = load(str(here["fast-dllm"]), *names, under="llada")
    return {"model": model, "generate": generate}


def _build(modules: Mapping[str, ModuleType], job: Job) -> Any:
    return llada_of(modules["model"], job.model)


def llada_of(
    modelling: ModuleType,
    model: Model,
    *,
    prefix: str = "",
) -> Any:
    """A model of a published ``modeling_llada`` with a copy of our weights.

    Args:
        modelling: the module.
        model: ours.
        prefix: of the names of its classes.
    """
    config = published_config(getattr(modelling, f"{prefix}LLaDAConfig"), model.config)
    # Later versions of transformers give no default for it.
    config.use_cache = False
    # Some of their constructors would put the network on a GPU.
    inner = modelling.create_model_config_from_pretrained_config(config)
    inner.init_device = "cpu"
    network = getattr(modelling, f"{prefix}LLaDAModel")(inner, init_params=True)
    net = getattr(modelling, f"{prefix}LLaDAModelLM")(config, model=network)
    net.load_state_dict(model.network.published(), strict=True)
    return net


def _run(code: Code, job: Job) -> object:
    loop = getattr(code.modules["generate"], _LOOPS[job.loop])
    settings: dict[str, object] = {
        "steps": job.steps,
        "gen_length": job.gen_length,
        "block_length": job.block_length,
        "mask_id": code.mask_id,
        "threshold": job.threshold,
    }
    return loop(code.net, job.ids, **(settings | job.more))


FAST_DLLM = Base("fast-dllm", ("fast-dllm",), _load, _build, _run, ours=True)
