"""Which reader knows the cases of a policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from skipstone.testing.golden.case import GoldenCase, InexpressibleError
from skipstone.testing.golden.published import (
    d2cache,
    dinfer,
    dkv,
    dllm_cache,
    dpad,
    es_dllm,
    fast_dllm,
    klass,
    localleap,
    slowfast,
    sparse_dllm,
    wino,
)

Reader = Callable[[str, Mapping[str, Any]], Iterator[GoldenCase]]

READERS: dict[str, Reader] = {
    "orders": d2cache.orders,
    "eb": d2cache.entropy_bound,
    "d2cache": d2cache.cache,
    "credit_decoding": dinfer.credit,
    "hierarchical": dinfer.hierarchical,
    "klass": klass.klass,
    "slowfast": slowfast.slowfast,
    "localleap": localleap.localleap,
    "suffix_window_dpad": dpad.suffix_window,
    "vicinity": dinfer.vicinity,
    "dkv_cache_decode": dkv.decode,
    "dllm_cache": dllm_cache.hooks,
    "dllm_cache_d2cache": dllm_cache.d2cache,
    "sparse_dllm": sparse_dllm.sparse,
    "wino": wino.wino,
    "es_dllm": es_dllm.es_dllm,
    "frechet_none": partial(fast_dllm.frechet, "none"),
    "frechet_prefix": partial(fast_dllm.frechet, "prefix"),
    "frechet_dual": partial(fast_dllm.frechet, "dual"),
}


def read(policy: str, name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """The cases that a recorded one stands for.

    Raises:
        InexpressibleError: nobody knows the policy.
    """
    reader = READERS.get(policy)
    if reader is None:
        raise InexpressibleError(f"no policy of the engine is {policy!r}")
    yield from reader(name, case)
