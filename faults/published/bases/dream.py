"""Dream: its own ``diffusion_generate``, and Fast-dLLM's with a cache.

Ye et al., "Dream 7B" (arXiv 2508.15487). A row of it scores the position to its right.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any

import torch

from faults.published.checkouts import load
from faults.published.code import Base, Code, Job
from faults.published.weights import EOS, HEADS, LAYERS, MASK, VOCAB, WIDTH, fill


def _load(here: Mapping[str, Path]) -> dict[str, ModuleType]:
    folder = here["dream"].resolve()
    return _modules(folder.parent, folder.name, "generation_utils")


def _load_fast(here: Mapping[str, Path]) -> dict[str, ModuleType]:
    return _modules(here["fast-dllm"] / "dream", "model", "generation_utils_block")


def _modules(root: Path, package: str, generation: str) -> dict[str, ModuleType]:
    names = ("modeling_dream", "configuration_dream", generation)
    found = load(str(root), *(f"{package}.{name}" for name in names), bare=(package,))
    return dict(zip(("model", "configuration", "generate"), found, strict=True))


def _build(modules: Mapping[str, ModuleType], job: Job) -> Any:
    config = modules["configuration"].DreamConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=80,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        max_position_embeddings=256,
        mask_token_id=MASK,
        pad_token_id=EOS,
        eos_token_id=EOS,
        bos_token_id=1,
    )
    net = modules["model"].DreamModel(config)
    fill(dict(net.named_parameters()), job.seed, head="lm_head.weight", ending=job.ending)
    for name in ("diffusion_generate", "_sample"):
        method = getattr(modules["generate"].DreamGenerationMixin, name)
        setattr(net, name, MethodType(method, net))
    return net


def _run(code: Code, job: Job) -> object:
    # A fault may have rewritten it since the model was made.
    code.net._sample = MethodType(code.modules["generate"].DreamGenerationMixin._sample, code.net)
    config = code.modules["generate"].DreamGenerationConfig(
        mask_token_id=MASK, pad_token_id=EOS, eos_token_id=EOS, bos_token_id=1
    )
    settings: dict[str, object] = {
        "generation_config": config,
        "max_new_tokens": job.gen_length,
        "steps": job.steps,
        "temperature": 0.0,
        "attention_mask": None if job.visible is None else torch.tensor(job.visible),
    }
    if code.base is DREAM_FAST:
        settings |= {"block_length": job.block_length, "dual_cache": job.loop == "dual"}
        settings |= (
            {"alg": "entropy"}
            if job.threshold is None
            else {"alg": "confidence_threshold", "threshold": job.threshold}
        )
    return code.net.diffusion_generate(job.ids, **(settings | job.more))


DREAM = Base("dream", ("dream",), _load, _build, _run)
DREAM_FAST = Base("dream-fast", ("fast-dllm",), _load_fast, _build, _run)
