"""The code bases: how each is imported, what a tiny model of it is, how its loops are called."""

from __future__ import annotations

from faults.published.bases.d2cache import D2CACHE
from faults.published.bases.dinfer import DINFER
from faults.published.bases.dkv_cache import DKV_CACHE
from faults.published.bases.dllm import DLLM, DLLM_FAST
from faults.published.bases.dllm_cache import DLLM_CACHE
from faults.published.bases.dream import DREAM, DREAM_FAST
from faults.published.bases.es_dllm import ES_DLLM
from faults.published.bases.fast_dllm import FAST_DLLM
from faults.published.bases.llada import LLADA
from faults.published.bases.open_dllm import OPEN_DLLM
from faults.published.bases.sdar import SDAR

_FIRST = (FAST_DLLM, LLADA, DLLM, DLLM_FAST, DREAM, DREAM_FAST, ES_DLLM, DKV_CACHE)
_LATER = (SDAR, OPEN_DLLM, DINFER, DLLM_CACHE, D2CACHE)

BASES = {base.name: base for base in (*_FIRST, *_LATER)}
