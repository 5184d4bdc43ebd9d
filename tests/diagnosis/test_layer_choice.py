"""Layers that compute other rows than their cache policy chooses are named, with proof."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from skipstone import Engine, Model
from skipstone.cache import CachePolicy, DllmCache, DyllmCache, ElasticCache, elastic
from skipstone.cache.dllm import MovedValues
from skipstone.cache.dyllm import Salient
from skipstone.canvas import RequestStep
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import diagnose
from skipstone.diagnosis.finding import Proof
from skipstone.memory.kept import KeptStates
from skipstone.memory.store import KVStore
from skipstone.record import MemoryTrace, StepRecord
from skipstone.rows import Rows
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import ExperimentRunner, Side
from tests.helpers.watching import BASE, prompt_of, uneven_model

Swap = tuple[object, str, Callable[..., Any]]
"""A class or module, one of its functions, and what stands in its place."""


def never(self: DllmCache, at: RequestStep) -> bool:
    return at.forward == 0


def first_rows(self: MovedValues, rows: Any, values: Any) -> np.ndarray:
    values.renew(rows)
    return np.arange(2)


def by_number(inner: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: MovedValues, layer: int, values: Any, rows: Any, context: Any) -> Any:
        right, at = inner(self, layer, values, rows, context), context.only
        if self.policy.computes_prompt(at) or self.policy.computes_response(at):
            return right
        return rows.take(np.searchsorted(rows.position, right.position) - at.prompt_length)

    return wrong


def with_itself(inner: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: Salient, layer: int, before: Tensor, now: Tensor, *rest: Any) -> Any:
        return inner(self, layer, now, now, *rest)

    return wrong


def turned_over(before_K: Tensor, now_K: Tensor) -> float:
    return 2 * ELASTIC.gamma - COSINE(before_K, now_K)


def of_the_row_before(inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def wrong(self: KeptStates, layer: int, rows: Rows) -> Tensor:
        return inner(self, layer, rows).roll(1, 0)

    return wrong


def run(model: Model, cache: CachePolicy) -> tuple[MemoryTrace, Engine]:
    recorder, engine = Recorder("full"), Engine(model, BASE, cache=cache)
    engine.generate(prompt_of(1, 7), observer=recorder)
    return recorder.trace, engine


def parts_equal(a: StepRecord, b: StepRecord) -> bool:
    assert a.layer_parts is not None
    assert b.layer_parts is not None
    return np.array_equal(a.layer_parts, b.layer_parts)


DLLM, DYLLM, ELASTIC = DllmCache(5, 3), DyllmCache(0.9, 2), ElasticCache(0.97)
COSINE = elastic._cosine


@pytest.mark.parametrize(
    ("cache", "swap", "rule", "what"),
    [
        (DLLM, (DllmCache, "computes_response", never), "stale-kv", "an interval is forgotten"),
        (DLLM, (MovedValues, "most_moved", first_rows), "stale-kv", "than the cache policy"),
        (DLLM, (MovedValues, "rows_in", by_number(MovedValues.rows_in)), "misaligned-rows", ""),
        (DLLM, (KeptStates, "take", of_the_row_before(KeptStates.take)), "wrong-cache-row", "dllm"),
        (ELASTIC, (elastic, "_cosine", turned_over), "stale-kv", "elastic"),
        (DYLLM, (Salient, "mlp_rows_in", with_itself(Salient.mlp_rows_in)), "stale-kv", "no row"),
    ],
)
def test_a_wrong_choice_is_named_from_the_trace_alone(
    cache: CachePolicy, swap: Swap, rule: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = uneven_model(1)
    a, engine = run(model, cache)
    with monkeypatch.context() as patched:
        patched.setattr(*swap)
        b, _ = run(model, cache)
    sides = Side(a, 0, engine), Side(b, 0, None)
    cause = diagnose(Case(a, b, ExperimentRunner(*sides, model))).cause
    assert cause is not None
    assert (cause.rule, cause.proof) == (rule, Proof.NECESSARY_AND_SUFFICIENT)
    assert what in str(cause.what)


@pytest.mark.parametrize("cache", [DLLM, DYLLM], ids=repr)
def test_wrong_attention_moves_the_choice_and_is_no_wrong_choice(
    cache: CachePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = KVStore.write

    def turned(self: KVStore, layer: int, rows: Rows, *rest: Any) -> Tensor:
        q_NHE = write(self, layer, rows, *rest)
        return q_NHE if layer or rows.refresh else -q_NHE

    model = uneven_model(1)
    a, engine = run(model, cache)
    with monkeypatch.context() as patched:
        patched.setattr(KVStore, "write", turned)
        b, _ = run(model, cache)
    case = Case(a, b, ExperimentRunner(Side(a, 0, engine), Side(b, 0, None), model))
    steps = zip(a.records[0].steps, b.records[0].steps, strict=False)
    both = ((x, y) for x, y in steps if x.layer_parts is not None and y.layer_parts is not None)
    step_a, step_b = next(pair for pair in both if not parts_equal(*pair))
    assert step_a.canvas == step_b.canvas
    assert case.layer_choice is None
    cause = diagnose(case).cause
    assert cause is None or "cache policy" not in str(cause.evidence)
