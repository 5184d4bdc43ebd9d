"""Cache policies: which rows are recomputed in a step."""

from skipstone.cache.base import CacheNeed, CachePolicy, CacheSession, LayerValues, StepTaken
from skipstone.cache.d2 import D2Cache
from skipstone.cache.delayed import DelayedCache
from skipstone.cache.dllm import DllmCache
from skipstone.cache.dyllm import DyllmCache
from skipstone.cache.elastic import ElasticCache
from skipstone.cache.once import OnceCache
from skipstone.cache.policies import DualCache, NoCache, PrefixCache
from skipstone.cache.sparse import SparseCache
from skipstone.cache.vicinity import VicinityCache

__all__ = [
    "CacheNeed",
    "CachePolicy",
    "CacheSession",
    "D2Cache",
    "DelayedCache",
    "DllmCache",
    "DualCache",
    "DyllmCache",
    "ElasticCache",
    "LayerValues",
    "NoCache",
    "OnceCache",
    "PrefixCache",
    "SparseCache",
    "StepTaken",
    "VicinityCache",
]
