"""inclusionAI/dInfer: its block-wise loop, its cache manager, and its decoders.

Ma et al., "dInfer" (arXiv 2510.08666). Its own model needs a serving engine; Fast-dLLM's LLaDA
stands for it, behind the arguments that dInfer's has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from faults.published.bases.fast_dllm import llada_of
from faults.published.checkouts import load
from faults.published.code import Base, Code, Job

_LOOP = ("generate_uniform", "utils", "parallel_strategy")


class Slotted(nn.Module):
    """A LLaDA that reads dInfer's cache, and is told which of its rows a call replaces."""

    def __init__(self, inner: Any) -> None:
        """Wrap a model whose cache is a list of pairs."""
        super().__init__()
        self.inner = inner
        self.config, self.device = inner.config, inner.device

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: Any = None,
        use_cache: bool = False,
        replace_position: tuple[int, int] | None = None,
    ) -> Any:
        """Logits of the rows, and a flat list of keys and values if asked."""
        told: dict[str, Any] = {}
        if past_key_values is not None:
            cache, (start, stop) = past_key_values, replace_position or (0, 0)
            # One row for all requests: the model counts what it finds in all of them.
            rows = torch.arange(cache.seq_len)[None]
            told["replace_position"] = (rows >= start) & (rows < stop)
            told["past_key_values"] = [
                (cache.get_keys(layer).clone(), cache.get_values(layer).clone())
                for layer in range(cache.num_layers)
            ]
        done = self.inner(input_ids, use_cache=use_cache, **told)
        flat = [t for pair in done.past_key_values or () for t in pair]
        return SimpleNamespace(logits=done.logits, past_key_values=flat)


def _load(here: Mapping[str, Path]) -> dict[str, ModuleType]:
    (model,) = load(str(here["fast-dllm"]), "model.modeling_llada", under="llada")
    names = (f"dinfer.decoding.{name}" for name in _LOOP)
    bare = ("dinfer", "dinfer.decoding")
    found = load(str(here["dinfer"]), *names, under="python", bare=bare)
    return {"model": model, **dict(zip(("loop", "cache", "rule"), found, strict=True))}


def _build(modules: Mapping[str, ModuleType], job: Job) -> nn.Module:
    return Slotted(llada_of(modules["model"], job.model))


def _run(code: Code, job: Job) -> object:
    more = {"temperature": 0.0, "decoder": "Threshold", "align": False, "early_stop": False}
    more |= {"cache_update_freq": None, "prefix_look": 0, "after_look": 0, **job.more}
    rule, loop, cache = (code.modules[name] for name in ("rule", "loop", "cache"))
    decoder = getattr(rule, f"{more['decoder']}ParallelDecoder")(
        temperature=more["temperature"],
        threshold=job.threshold,
        mask_id=code.mask_id,
        eos_id=code.eos_id,
    )
    factory = cache.BlockIteratorFactory(start_block_align=more["align"])
    kind = {"plain": None, "vicinity": "dual"}.get(job.loop, job.loop)
    kept = kind and cache.KVCacheFactory(kind, cache_update_freq=more["cache_update_freq"])
    named = {"early_stop": more["early_stop"], "cache_factory": kept}
    if job.loop == "vicinity":
        looks = {name: more[name] for name in ("prefix_look", "after_look")}
        engine = loop.VicinityCacheDiffusionLLM(code.net, decoder, factory, **named, **looks)
    else:
        engine = loop.BlockWiseDiffusionLLM(code.net, decoder, factory, **named)
    return engine.generate(job.ids, gen_length=job.gen_length, block_length=job.block_length)


DINFER = Base("dinfer", ("dinfer", "fast-dllm"), _load, _build, _run, ours=True)
