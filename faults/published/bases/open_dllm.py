"""pengzhangzhi/Open-dLLM: the whole canvas, and a rule that masks tokens again.

Peng et al., "Path Planning for Masked Diffusion Model Sampling" (arXiv 2502.03540). A row of it
scores the position to its right.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any

from faults.published.bases.sdar import LAYERS_OF_QWEN, filled, modelling
from faults.published.checkouts import load
from faults.published.code import Base, Code, Job
from faults.published.weights import EOS, MASK

_UNDER = "veomni.models.transformers.qwen2"
_PACKAGES = ("veomni", "veomni.models", "veomni.models.transformers", _UNDER)


def generation(checkout: str) -> Any:
    """The module of its loop."""
    [module] = load(checkout, f"{_UNDER}.generation_utils", bare=_PACKAGES)
    return module


def give_loop(net: Any, module: Any) -> None:
    """Let a model generate as theirs does."""
    mixin = module.MDMGenerationMixin
    for name in ("diffusion_generate", "_mdm_sample", "_mdm_prepare_generation_config"):
        setattr(net, name, MethodType(getattr(mixin, name), net))
    net._expand_inputs_for_generation = mixin._expand_inputs_for_generation


def _load(here: Mapping[str, Path]) -> dict[str, ModuleType]:
    module = generation(str(here["open-dllm"]))
    return {
        "qwen": modelling(here["dllm"]),
        "model": import_module(LAYERS_OF_QWEN),
        "generate": module,
    }


def _build(modules: Mapping[str, ModuleType], job: Job) -> Any:
    return filled(modules["qwen"], job)


def _run(code: Code, job: Job) -> object:
    # A fault may have rewritten it since the model was made.
    give_loop(code.net, code.modules["generate"])
    settings: dict[str, object] = {
        "mask_token_id": MASK,
        "pad_token_id": 0,
        "eos_token_id": EOS,
        "max_new_tokens": job.gen_length,
        "steps": job.steps,
        "alg": job.loop,
    }
    asked = code.modules["generate"].MDMGenerationConfig(**(settings | job.more))
    return code.net.diffusion_generate(job.ids, asked)


OPEN_DLLM = Base("open-dllm", ("open-dllm", "dllm"), _load, _build, _run)
