"""inclusionAI/dInfer: block by block, with its caches, its windows and its decoders.

Models and loops are those of the bench of faults, since both need the same stand-in.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from faults.published import code
from faults.published.bases.dinfer import DINFER
from faults.published.checkouts import FOLDER, present
from faults.published.cuts import StepContext, Variables, host, span
from faults.published.loops.tiny import prompts
from faults.published.right import Job, Right
from faults.published.weights import EOS, MASK

REPOSITORY, MODEL = "dInfer", "Fast-dLLM"


def configurations() -> Iterator[Right]:
    """By loop, cache and decoder."""
    settings: dict[str, dict[str, Any]] = {
        "no cache": {},
        "no cache, hardly ever sure": {"threshold": 0.95},
        "no cache, temperature": {"temperature": 0.8},
        "no cache, two prompts": {"lengths": (7, 7)},
        "no cache, blocks on a grid": {"align": True, "lengths": (11,)},
        "no cache, blocks do not divide": {"gen_length": 20},
        "no cache, credit": {"decoder": "CreditThreshold", "threshold": 0.7},
        "dual": {"loop": "dual"},
        "dual, every second step": {"loop": "dual", "cache_update_freq": 2, "threshold": 0.8},
        "dual, two prompts": {"loop": "dual", "lengths": (7, 7)},
        "dual, shared keys": {"loop": "dual", "kv_heads": 2},
        "dual, bfloat16": {"loop": "dual", "dtype": "bfloat16"},
        "prefix": {"loop": "prefix", "lengths": (19,)},
        "prefix, every third step": {"loop": "prefix", "cache_update_freq": 3, "threshold": 0.8},
        "prefix, two prompts": {"loop": "prefix", "lengths": (7, 7)},
        "window": {"loop": "vicinity", "prefix_look": 2, "after_look": 3},
        "window, long prompt": {"loop": "vicinity", "prefix_look": 4, "lengths": (21,)},
    }
    if present(MODEL):
        for name, setting in settings.items():
            yield Right(REPOSITORY, name, partial(_job, **setting))


def _job(
    loop: str = "plain",
    *,
    lengths: tuple[int, ...] = (7,),
    gen_length: int = 16,
    threshold: float = 0.5,
    dtype: str = "float32",
    kv_heads: int = 4,
    **options: Any,
) -> Job:
    asked = code.Job(
        loop,
        tuple(map(tuple, prompts(*lengths))),
        gen_length=gen_length,
        block_length=8,
        threshold=threshold,
        dtype=dtype,
        kv_heads=kv_heads,
        seed=1,
        options=tuple(options.items()),
    )
    folder = FOLDER.resolve()
    here = {"dinfer": folder / REPOSITORY, "fast-dllm": folder / MODEL}
    ready = DINFER.at(DINFER.load(here), asked)
    # It cuts its answer at an end, where the whole canvas is asked for; so none is ever predicted.
    ready.net.inner.model.transformer.ff_out.weight[EOS] = 0
    look = options.get("prefix_look", 0)
    read = partial(_read, look=look)
    return Job(ready.net, lambda: _canvas(ready, asked), "decode", read, MASK, EOS)


def _canvas(ready: code.Code, asked: code.Job) -> Tensor:
    # What it compiles would look for modules that are imported under no name any more.
    with torch.compiler.set_stance("force_eager"):
        done = DINFER.run(ready, asked)
    assert isinstance(done, Tensor)
    return done


def _read(now: Variables, ids: Tensor, look: int) -> StepContext:
    """A partial call begins at its block, or as many rows before it as its window has."""
    array, place = now["orig_x"], now["block_loc"]
    canvas, prompt = host(array.data), array.prompt.shape[1]
    batch = len(canvas)
    first = 0 if ids.shape[1] == canvas.shape[1] else max(0, place.start - look)
    return StepContext(
        canvas,
        span(batch, first, first + ids.shape[1]),
        now["block_id"],
        (max(prompt, place.start),) * batch,
        (place.end,) * batch,
    )
