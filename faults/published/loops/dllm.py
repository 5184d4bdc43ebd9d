"""ZHZisZZ/dllm: samplers as classes, prompts of unequal length, growing canvases."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faults.published.checkouts import load
from faults.published.cuts import StepContext, Variables, host, span
from faults.published.loops.llada import model_of
from faults.published.loops.tiny import (
    DREAM,
    EOS,
    LLADA,
    MASK,
    QWEN,
    Tokenizer,
    prompts,
    weights,
)
from faults.published.right import Job, Right

REPOSITORY = "dllm"
_PACKAGES = ("dllm", "dllm.core", "dllm.pipelines")


def configurations() -> Iterator[Right]:
    """By sampler and setting."""
    for name, setting in _MDLM.items():
        yield Right(REPOSITORY, f"mdlm, {name}", partial(_mdlm, **setting))
    for name, setting in _FAST.items():
        yield Right(REPOSITORY, f"fastdllm llada, {name}", partial(_fast, **setting))
    for name, setting in _DREAM.items():
        yield Right(REPOSITORY, f"dream, {name}", partial(_dream, **setting))
    for name, setting in _FAST_DREAM.items():
        yield Right(REPOSITORY, f"fastdllm dream, {name}", partial(_fast_dream, **setting))
    for name, setting in _BD3LM.items():
        yield Right(REPOSITORY, f"bd3lm, {name}", partial(_bd3lm, **setting))


_MDLM: dict[str, dict[str, Any]] = {
    "one prompt": {},
    "three prompts": {"lengths": (9, 7, 4)},
    "block does not divide": {"block_size": 6},
    "guidance": {"cfg_scale": 0.5},
    "guidance, three prompts": {"cfg_scale": 0.5, "lengths": (9, 7, 4)},
    "random": {"remasking": "random", "steps": 8},
    "temperature, bfloat16": {"temperature": 0.7, "dtype": torch.bfloat16},
}
_FAST: dict[str, dict[str, Any]] = {
    "no cache": {},
    "no cache, three prompts, threshold": {"lengths": (9, 7, 4), "threshold": 0.6},
    "prefix": {"use_cache": "prefix"},
    "prefix, threshold, two prompts": {
        "use_cache": "prefix",
        "threshold": 0.6,
        "lengths": (7, 7),
    },
    "prefix, factor": {"use_cache": "prefix", "factor": 1.0},
    "prefix, block does not divide": {"use_cache": "prefix", "block_size": 6},
    "dual": {"use_cache": "dual"},
    "dual, threshold": {"use_cache": "dual", "threshold": 0.6},
    "dual, block does not divide": {"use_cache": "dual", "block_size": 6},
}
_DREAM: dict[str, dict[str, Any]] = {
    "maskgit_plus": {"alg": "maskgit_plus"},
    "entropy, three prompts": {"alg": "entropy", "lengths": (9, 7, 4)},
    "margin, guidance": {"alg": "topk_margin", "cfg_scale": 0.5},
    "entropy, temperature, bfloat16": {
        "alg": "entropy",
        "temperature": 0.7,
        "alg_temp": 0.3,
        "dtype": torch.bfloat16,
    },
}
_FAST_DREAM: dict[str, dict[str, Any]] = {
    "no cache, threshold": {"alg": "confidence_threshold", "threshold": 0.4},
    "no cache, entropy, three prompts": {"alg": "entropy", "lengths": (9, 7, 4)},
    "prefix, threshold": {
        "alg": "confidence_threshold",
        "threshold": 0.4,
        "use_cache": "prefix",
    },
    "dual, entropy": {"alg": "entropy", "use_cache": "dual"},
    "dual, margin, blocks of 4": {
        "alg": "topk_margin",
        "use_cache": "dual",
        "block_size": 4,
    },
}
_BD3LM: dict[str, dict[str, Any]] = {
    "one prompt": {},
    "three prompts": {"lengths": (9, 7, 4)},
    "guidance": {"cfg_scale": 0.5},
    "shifted": {"right_shift_logits": True},
    "last block is shorter": {"max_new_tokens": 20},
    "stops at its end": {"eos": True, "max_new_tokens": 48},
}


def _mdlm(lengths: tuple[int, ...] = (7,), dtype: Any = torch.float32, **setting: Any) -> Job:
    [samplers] = load(REPOSITORY, "dllm.core.samplers", bare=_PACKAGES)
    model = model_of(dtype)
    sampler = samplers.MDLMSampler(model=model, tokenizer=Tokenizer())
    named = {"max_new_tokens": 16, "block_size": 8, "steps": 16, **setting}
    config = samplers.MDLMSamplerConfig(**named)
    return Job(
        model, lambda: sampler.sample(prompts(*lengths), config), "sample", _blocks, MASK, EOS
    )


def _fast(lengths: tuple[int, ...] = (7,), dtype: Any = torch.float32, **setting: Any) -> Job:
    packages = (*_PACKAGES, "dllm.pipelines.fastdllm", "dllm.pipelines.fastdllm.llada")
    modeling, configuration, fast = load(
        REPOSITORY,
        "dllm.pipelines.fastdllm.llada.models.modeling_llada",
        "dllm.pipelines.fastdllm.llada.models.configuration_llada",
        "dllm.pipelines.fastdllm.llada.sampler",
        bare=(*packages, "dllm.pipelines.fastdllm.llada.models"),
    )
    config_class = next(v for k, v in vars(configuration).items() if k.endswith("LLaDAConfig"))
    model_class = next(v for k, v in vars(modeling).items() if k.endswith("LLaDAModelLM"))
    model = weights(model_class(config_class(**LLADA), init_params=True), dtype)
    sampler = fast.FastdLLMLLaDASampler(model=model, tokenizer=Tokenizer())
    named = {"max_new_tokens": 16, "block_size": 8, "steps": 16, **setting}
    config = fast.FastdLLMLLaDASamplerConfig(**named)
    return Job(
        model, lambda: sampler.sample(prompts(*lengths), config), "sample", _blocks, MASK, EOS
    )


def _blocks(now: Variables, ids: Tensor) -> StepContext:
    """Blocks are counted by ``b`` from the end of each sample's own prompt."""
    canvas, size = host(now["x"]), now["block_size"]
    starts = [length + now["b"] * size for length in now["prompt_lens"]]
    ends = [length + now["max_new_tokens"] for length in now["prompt_lens"]]
    first = 0 if ids.shape[1] == canvas.shape[1] else starts[0]
    return StepContext(
        canvas,
        span(len(canvas), first, first + ids.shape[1]),
        now["b"],
        tuple(starts),
        tuple(min(start + size, end) for start, end in zip(starts, ends, strict=True)),
    )


def _dream(lengths: tuple[int, ...] = (7,), dtype: Any = torch.float32, **setting: Any) -> Job:
    packages = (*_PACKAGES, "dllm.pipelines.dream", "dllm.pipelines.dream.models")
    modeling, configuration, dream = load(
        REPOSITORY,
        "dllm.pipelines.dream.models.modeling_dream",
        "dllm.pipelines.dream.models.configuration_dream",
        "dllm.pipelines.dream.sampler",
        bare=packages,
    )
    model = weights(modeling.DreamModel(configuration.DreamConfig(**DREAM)), dtype)
    sampler = dream.DreamSampler(model=model, tokenizer=Tokenizer())
    named = {"max_new_tokens": 16, "steps": 16, "temperature": 0.0, **setting}
    config = dream.DreamSamplerConfig(**named)
    return Job(
        model, lambda: sampler.sample(prompts(*lengths), config), "sample", _right, MASK, EOS
    )


def _right(now: Variables, ids: Tensor) -> StepContext:
    """All answers end at the right edge, and there are no blocks."""
    canvas = host(now["x"])
    start, stop = canvas.shape[1] - now["max_new_tokens"], canvas.shape[1]
    batch = len(canvas)
    return StepContext(canvas, span(batch, 0, stop), 0, (start,) * batch, (stop,) * batch)


def _fast_dream(lengths: tuple[int, ...] = (7,), **setting: Any) -> Job:
    packages = (*_PACKAGES, "dllm.pipelines.fastdllm", "dllm.pipelines.fastdllm.dream")
    modeling, configuration, fast = load(
        REPOSITORY,
        "dllm.pipelines.fastdllm.dream.models.modeling_dream",
        "dllm.pipelines.fastdllm.dream.models.configuration_dream",
        "dllm.pipelines.fastdllm.dream.sampler",
        bare=(
            *packages,
            "dllm.pipelines.fastdllm.dream.models",
            "dllm.pipelines.dream",
            "dllm.pipelines.dream.models",
        ),
    )
    config_class = next(v for k, v in vars(configuration).items() if k.endswith("DreamConfig"))
    model_class = next(v for k, v in vars(modeling).items() if k.endswith("DreamModel"))
    model = weights(model_class(config_class(**DREAM)))
    sampler = fast.FastdLLMDreamSampler(model=model, tokenizer=Tokenizer())
    named = {"max_new_tokens": 16, "block_size": 8, "steps": 16, "temperature": 0.0, **setting}
    config = fast.FastdLLMDreamSamplerConfig(**named)
    return Job(
        model, lambda: sampler.sample(prompts(*lengths), config), "sample", _cached, MASK, EOS
    )


def _cached(now: Variables, ids: Tensor) -> StepContext:
    """Without a cache as above; with one, blocks have bounds of their own."""
    if "num_block" not in now:
        return _right(now, ids)
    canvas, start = host(now["x"]), now["current_block_start"]
    batch = len(canvas)
    first = 0 if ids.shape[1] == canvas.shape[1] else start
    return StepContext(
        canvas,
        span(batch, first, first + ids.shape[1]),
        now["num_block"],
        (start,) * batch,
        (now["current_block_end"],) * batch,
    )


def _bd3lm(
    lengths: tuple[int, ...] = (7,),
    dtype: Any = torch.float32,
    *,
    eos: bool = False,
    **setting: Any,
) -> Job:
    [samplers] = load(REPOSITORY, "dllm.core.samplers", bare=_PACKAGES)
    [qwen] = load(
        REPOSITORY,
        "dllm.pipelines.a2d.models.qwen2.modeling_qwen2",
        bare=(*_PACKAGES, "dllm.pipelines.a2d", "dllm.pipelines.a2d.models"),
    )
    model = weights(qwen.A2DQwen2LMHeadModel(qwen.A2DQwen2Config(**QWEN)), dtype, eos=eos)
    sampler = samplers.BD3LMSampler(model=model, tokenizer=Tokenizer())
    named = {"max_new_tokens": 16, "block_size": 8, "steps": 16, **setting}
    config = samplers.BD3LMSamplerConfig(**named)
    return Job(
        model,
        lambda: sampler.sample(prompts(*lengths), config),
        "sample",
        Growing(),
        MASK,
        EOS,
    )


class Growing:
    """The canvas grows by a block; the prefix is computed before that, as its first step."""

    def __init__(self) -> None:
        """No call yet."""
        self._calls = 0

    def __call__(self, now: Variables, ids: Tensor) -> StepContext | None:
        """Of two calls of guidance, the second decides nothing by itself."""
        self._calls += 1
        if now["cfg_scale"] > 0 and self._calls % 2 == 0:
            return None
        canvas, size, block = host(now["x"]), now["block_size"], now["b_idx"]
        prompt, new = now["padded_prompt_len"], now["max_new_tokens"]
        whole = np.full((len(canvas), prompt + new), MASK)
        whole[:, : canvas.shape[1]] = canvas
        start = prompt + block * size
        first = start if "x_block" in now and ids is now["x_block"] else 0
        return StepContext(
            whole,
            span(len(canvas), first, first + ids.shape[1]),
            block,
            (start,) * len(canvas),
            (min(start + size, prompt + new),) * len(canvas),
        )
