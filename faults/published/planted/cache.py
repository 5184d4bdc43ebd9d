"""Faults of the key/value cache: what is kept, where it is written, who reads it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from faults.published.code import Code
from faults.published.fault import planted
from faults.published.jobs import both
from faults.truth import CACHED, Truth, anywhere, in_block, near_block, outside_block, when

DUAL = {"fast-dllm": both("dual")}
CACHED_LOOPS = {"fast-dllm": both("dual")[:1] + both("prefix")[1:]}
# The refresh itself is computed rightly; who goes on from it reads the old cache.
AFTER_THE_REFRESH = when(lambda step: step.block == 1 and step.step > 0)
_DUAL_LOOP = "generate.generate_with_dual_cache"
_PREFIX_LOOP = "generate.generate_with_prefix_cache"


@planted("stale-kv", at=Truth(CACHED, (1,), in_block), into=DUAL)
@contextmanager
def values_not_written(code: Code) -> Generator[None]:
    """Keys of the block are replaced in the cache, values stay those of the refresh."""
    with code.insert(
        "model.LLaDABlock.attention",
        "v = past_value[:, :, replace_indices]",
        after="past_key",
        nth=-1,
    ):
        yield


@planted("stale-kv", at=Truth(CACHED, (1,), in_block), into=DUAL)
@contextmanager
def keys_not_written(code: Code) -> Generator[None]:
    """Values of the block are replaced in the cache, keys stay those of the refresh."""
    with code.insert(
        "model.LLaDABlock.attention",
        "k = past_key[:, :, replace_indices]",
        after="replace_indices",
    ):
        yield


@planted("wrong-cache-row", at=Truth(CACHED, (1,), near_block), into=DUAL)
@contextmanager
def replace_position_off_by_one(code: Code) -> Generator[None]:
    """The rows of the block are written one position too far to the right."""
    shift = "replace_position = replace_position.roll(1, 1)"
    with code.insert(_DUAL_LOOP, shift, after="replace_position", nth=-1):
        yield


@planted("wrong-cache-row", at=Truth(CACHED, (2,), anywhere), into=CACHED_LOOPS)
@contextmanager
def caches_of_two_layers_swapped(code: Code) -> Generator[None]:
    """Layer 2 reads the cache of layer 3, and layer 3 that of layer 2."""
    swap = "past_key_values[1], past_key_values[2] = past_key_values[2], past_key_values[1]"
    with (
        code.insert(_DUAL_LOOP, swap, after="past_key_values", nth=0),
        code.insert(_PREFIX_LOOP, swap, after="past_key_values", nth=0),
    ):
        yield


@planted("wrong-cache-row", at=Truth(CACHED, (1,), outside_block), into=CACHED_LOOPS)
@contextmanager
def keys_and_values_swapped(code: Code) -> Generator[None]:
    """What is stored as keys are the values, and the other way round."""
    swap = "past_key_values = [(v, k) for k, v in past_key_values]"
    with (
        code.insert(_DUAL_LOOP, swap, after="past_key_values", nth=0),
        code.insert(_PREFIX_LOOP, swap, after="past_key_values", nth=0),
    ):
        yield


@planted("stale-kv", at=Truth(AFTER_THE_REFRESH, (1,), outside_block), into=DUAL)
@contextmanager
def refresh_forgotten(code: Code) -> Generator[None]:
    """Every block goes on with the cache of the first one."""
    keep = """
    kept = past_key_values if num_block == 0 else kept
    past_key_values = kept
    """
    with code.insert(_DUAL_LOOP, keep, after="past_key_values", nth=0):
        yield


@planted("position-encoding", at=Truth(CACHED, (1,), in_block), into=DUAL)
@contextmanager
def rotation_one_too_small(code: Code) -> Generator[None]:
    """Queries of a cached step are rotated as if they stood one position further left."""

    def make(forward: Any) -> Any:
        def wrong(self: Any, q: Tensor, k: Tensor, end: Tensor | None = None) -> Any:
            return forward(self, q, k, None if end is None else end - 1)

        return wrong

    with code.change("model.RotaryEmbedding.forward", make):
        yield
