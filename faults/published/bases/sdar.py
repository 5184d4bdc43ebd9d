"""JetAstra/SDAR: each block is decoded on its own behind a cache of those before it.

Its model needs a GPU; a Qwen of dllm's stands for it, with the one argument that it has more.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from faults.published.checkouts import load
from faults.published.code import Base, Code, Job
from faults.published.weights import EOS, HEADS, LAYERS, VOCAB, WIDTH, fill

_RULES = {
    "static": "low_confidence_static",
    "dynamic": "low_confidence_dynamic",
    "sequential": "sequential",
}
LAYERS_OF_QWEN = "transformers.models.qwen2.modeling_qwen2"
"""Where its layers are; only those who load a Qwen need transformers."""
_PACKAGES = ("dllm", "dllm.core", "dllm.pipelines", "dllm.pipelines.a2d")


class Storing(nn.Module):
    """A model whose calls add to their cache only where they are asked to."""

    def __init__(self, inner: Any) -> None:
        """Wrap a model that always adds."""
        super().__init__()
        self.inner = inner
        self.config, self.device = inner.config, inner.device

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: Any,
        use_cache: bool = True,
        store_kv: bool = False,
    ) -> Any:
        """Logits of the rows, behind what the cache has."""
        cache = past_key_values if store_kv else copy.deepcopy(past_key_values)
        return self.inner(
            input_ids,
            attention_mask=attention_mask[:, None].bool(),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=use_cache,
        )


def modelling(dllm: str | Path) -> ModuleType:
    """The Qwen of dllm's that sees in both directions.

    Args:
        dllm: where the checkout is.
    """
    under = "dllm.pipelines.a2d.models"
    [module] = load(str(dllm), f"{under}.qwen2.modeling_qwen2", bare=(*_PACKAGES, under))
    return module


def qwen(module: Any, settings: Mapping[str, Any]) -> Any:
    """Such a model, before it has weights."""
    return module.A2DQwen2LMHeadModel(module.A2DQwen2Config(**settings))


def filled(module: ModuleType, job: Job) -> Any:
    """A tiny one for a job."""
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "intermediate_size": 80,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "eos_token_id": EOS,
        "bos_token_id": 1,
        "attn_implementation": "sdpa",
    }
    net = qwen(module, settings)
    fill(dict(net.named_parameters()), job.seed, head="lm_head.weight", ending=job.ending)
    if job.sharp:
        net.lm_head.weight.data.mul_(4)
    return net


def _load(here: Mapping[str, Path]) -> dict[str, ModuleType]:
    (generate,) = load(str(here["sdar"]), "generate")
    return {
        "qwen": modelling(here["dllm"]),
        "model": import_module(LAYERS_OF_QWEN),
        "generate": generate,
    }


def _build(modules: Mapping[str, ModuleType], job: Job) -> nn.Module:
    return Storing(filled(modules["qwen"], job))


def _run(code: Code, job: Job) -> object:
    settings: dict[str, object] = {
        "gen_length": job.gen_length,
        "block_length": job.block_length,
        "denoising_steps": job.block_length,
        "temperature": 0.7,
        "remasking_strategy": _RULES[job.loop],
    }
    settings |= {} if job.threshold is None else {"confidence_threshold": job.threshold}
    loop = code.modules["generate"].block_diffusion_generate
    return loop(code.net, {"input_ids": job.ids}, code.mask_id, **(settings | job.more))


SDAR = Base("sdar", ("sdar", "dllm"), _load, _build, _run)
