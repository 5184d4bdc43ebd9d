"""ZHZisZZ/dllm for LLaDA 2 and 2.1: the window grows by a block, and tokens are edited."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from faults.published.checkouts import load
from faults.published.cuts import StepContext, Variables, host, span
from faults.published.loops.tiny import EOS, MASK, PAD, VOCABULARY, Tokenizer, prompts, weights
from faults.published.right import Job, Right

REPOSITORY = "dllm"
MOE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "pad_token_id": PAD,
    "embedding_dropout": 0.0,
    "attention_dropout": 0.0,
    "output_dropout": 0.0,
    "max_position_embeddings": 128,
    "attn_implementation": "sdpa",
}


def configurations() -> Iterator[Right]:
    """By model and setting; the last block is filled up, so that it is longer than asked."""
    second: dict[str, dict[str, Any]] = {
        "threshold": {"threshold": 0.5},
        "fixed": {"threshold": 2.0, "steps_per_block": 4},
        "prompt of whole blocks": {"threshold": 0.5, "lengths": (8,)},
        "two prompts": {"threshold": 0.5, "lengths": (7, 7)},
        "blocks of 4, temperature": {"threshold": 0.5, "block_size": 4, "temperature": 0.6},
    }
    second["stops at its end"] = {"threshold": 0.5, "eos_early_stop": True, "eos": True}
    for name, setting in second.items():
        yield Right(REPOSITORY, f"llada2, {name}", partial(_job, "llada2", **setting))
    edited: dict[str, dict[str, Any]] = {
        "edits": {"threshold": 0.4, "editing_threshold": 0.3},
        "no edits": {"threshold": 0.5, "editing_threshold": 2.0},
        "edits, temperature": {"threshold": 0.4, "editing_threshold": 0.3, "temperature": 0.5},
    }
    for name, setting in edited.items():
        yield Right(REPOSITORY, f"llada21, {name}", partial(_job, "llada21", **setting))


def _job(
    family: str, lengths: tuple[int, ...] = (11,), *, eos: bool = False, **setting: Any
) -> Job:
    packages = ("dllm", "dllm.core", "dllm.pipelines", f"dllm.pipelines.{family}")
    under = f"dllm.pipelines.{family}"
    modeling, configuration, loop = load(
        REPOSITORY,
        f"{under}.models.modeling_{family}_moe",
        f"{under}.models.configuration_{family}_moe",
        f"{under}.sampler",
        bare=(*packages, f"{under}.models"),
    )
    model = weights(modeling.LLaDA2MoeModelLM(configuration.LLaDA2MoeConfig(**MOE)), torch.bfloat16)
    kind = "LLaDA2" if family == "llada2" else "LLaDA21"
    sampler = getattr(loop, f"{kind}Sampler")(model=model, tokenizer=Tokenizer())
    config = getattr(loop, f"{kind}SamplerConfig")(
        **{"max_new_tokens": 21, "block_size": 8, **setting}
    )
    return Job(model, lambda: sampler.sample(prompts(*lengths), config), "sample", _read, MASK, EOS)


def _read(now: Variables, ids: Tensor) -> StepContext:
    """Blocks lie on a grid over the whole canvas: the first has a part of the prompt in it."""
    canvas = host(now["x"])
    batch, stop = len(canvas), now["window_end"]
    start = max(now["prompt_len"], stop - now["block_size"])
    return StepContext(
        canvas,
        span(batch, 0, ids.shape[1]),
        now["blk"] - now["prompt_blocks"],
        (start,) * batch,
        (stop,) * batch,
    )
