"""zhuzj19/ES-dLLM: layers that drop rows, rows passed by position, for LLaDA and Dream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor

from faults.published.checkouts import load, present
from faults.published.cuts import StepContext, Variables, host
from faults.published.loops.llada import model_of
from faults.published.loops.tiny import DREAM, EOS, MASK, padded, weights
from faults.published.right import Job, Right

REPOSITORY, MODEL = "ES-dLLM", "dllm"
# The loop has the ids of the two trained models written into it.
_IDS = {126336: MASK, 126081: EOS, 151666: MASK, 151643: EOS}
_SKIP: dict[str, Any] = {
    "ESdLLM_mode": "Key",
    "importance_score_alpha": 0.5,
    "proportion_steps": [(1.0, 0.0), (0.5, 0.4)],
    "prompt_update_freq": 6,
    "block_update_freq": 3,
}


def configurations() -> Iterator[Right]:
    """By family and setting."""
    settings: dict[str, dict[str, Any]] = {
        "no cache": {"use_kvcache": False},
        "cache": {},
        "cache, threshold": {"parallel_mode": True, "threshold": 0.4},
        "cache, two prompts, padded": {"lengths": (9, 6)},
        "skip by keys": _SKIP,
        "skip by values, threshold": {
            **_SKIP,
            "ESdLLM_mode": "Value",
            "parallel_mode": True,
            "threshold": 0.4,
        },
        "skip by states": {**_SKIP, "ESdLLM_mode": "HiddenState"},
        "skip by queries, two prompts": {**_SKIP, "ESdLLM_mode": "Query", "lengths": (7, 7)},
        "end comes late": {"delay_eos_generation": True, "eos": True},
        "sparse, two prompts": {"sparse_kv": 0.5, "delay_step": 1, "lengths": (7, 7)},
    }
    if present(MODEL):
        for family in ("llada", "dream"):
            for name, setting in settings.items():
                yield Right(REPOSITORY, f"{family}, {name}", partial(_job, family, **setting))


def _job(family: str, lengths: tuple[int, ...] = (7,), *, eos: bool = False, **setting: Any) -> Job:
    loop, hook = load(REPOSITORY, "generate", "models.hook_model")
    generate = with_ids(loop.batch_generate, _IDS)
    model = model_of(torch.bfloat16, eos=eos) if family == "llada" else _dream(eos=eos)
    getattr(hook, f"transform_{family}_model")(model)
    prompt, real = padded(*lengths)
    named = {
        "gen_length": 16,
        "block_length": 8,
        "sparse_kv": 1.0,
        "top_p": 1.0,
        **setting,
    }
    if not torch.cuda.is_available():
        torch.cuda.synchronize = lambda device=None: None
    return Job(
        model,
        lambda: generate(model, prompt, real, named)[0],
        "batch_generate",
        partial(_read, offset=int(family == "dream")),
        MASK,
        EOS,
    )


def _dream(*, eos: bool) -> Any:
    packages = ("dllm", "dllm.core", "dllm.pipelines", "dllm.pipelines.dream")
    modeling, configuration = load(
        MODEL,
        "dllm.pipelines.dream.models.modeling_dream",
        "dllm.pipelines.dream.models.configuration_dream",
        bare=(*packages, "dllm.pipelines.dream.models"),
    )
    made = modeling.DreamModel(configuration.DreamConfig(**DREAM))
    model: Any = weights(made, torch.bfloat16, eos=eos)
    model.config.model_type = "Dream"
    return model


def with_ids(function: Callable[..., Any], ids: dict[int, int]) -> Callable[..., Any]:
    """A published function, with other token ids than those that are written into it."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    assert isinstance(function, FunctionType)
    code: CodeType = function.__code__
    swapped = tuple(ids.get(c, c) if type(c) is int else c for c in code.co_consts)
    copy = FunctionType(
        code.replace(co_consts=swapped),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    return torch.no_grad()(copy)


def _read(now: Variables, ids: Tensor, offset: int) -> StepContext:
    """Logits of Dream are of the next position, so its blocks begin one further on."""
    canvas = host(now["x"])[:, : now["max_length"]]
    batch = len(canvas)
    return StepContext(
        canvas,
        host(now["pos"])[:batch],
        now["num_block"],
        (now["start_index"] + offset,) * batch,
        (now["end_index"] + offset,) * batch,
    )
