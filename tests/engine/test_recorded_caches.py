"""Caches with sessions, as third parties write them, commit what their published code committed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skipstone import DualCache, Engine, Fixed, Settings, load
from skipstone.cache import CachePolicy
from skipstone.testing.golden.replay import Commitments
from tests.engine.recorded_caches import Delayed, Slack, Vicinity

pytestmark = pytest.mark.golden

Case = dict[str, Any]
DIFFERENT = 6
"""Of the cases of a checkpoint, at least so many are not those of the dual cache."""


def vicinity(case: Case) -> Settings:
    asked = case["params"]
    cache = Vicinity(
        asked["prefix_look"],
        asked["after_look"],
        asked["warmup_steps"],
        asked["cache_update_freq"] or 0,
    )
    return _settings(case, cache).replace(unmask=Slack(asked["threshold"]))


def delayed(case: Case) -> Settings:
    asked = case["params"]
    cache = Delayed(asked["cache_reloading_step"])
    steps = case["gen_length"] // asked["tokens_per_step"]
    return _settings(case, cache).replace(unmask=Fixed(), steps=steps)


def _settings(case: Case, cache: CachePolicy) -> Settings:
    lengths = case["gen_length"], case["block_length"]
    return Settings(cache=cache, gen_length=lengths[0], block_length=lengths[1], eos_stop=False)


POLICIES: dict[str, Callable[[Case], Settings]] = {
    "vicinity": vicinity,
    "dkv_cache_decode": delayed,
}
RECORDED = [
    ("vicinity", "mha"),
    ("vicinity", "gqa"),
    ("vicinity", "deep"),
    ("dkv_cache_decode", "mha"),
    ("dkv_cache_decode", "deep"),
]


@pytest.mark.parametrize(("name", "checkpoint"), RECORDED)
def test_a_session_commits_what_the_published_code_committed(
    golden_dir: Path, name: str, checkpoint: str
) -> None:
    file = golden_dir / "policies" / name / f"{checkpoint}.json"
    model = load(golden_dir / checkpoint, device="cpu", dtype="float32")
    cases, differing = json.loads(file.read_text())["cases"], 0
    for number, case in enumerate(cases):
        settings, seen = POLICIES[name](case), Commitments()
        result = Engine(model, settings).generate(case["prompt"], observer=seen)
        wanted = [tuple(map(tuple, sorted(step))) for step in case["steps"] if step]
        assert [step for step in seen.forwards if step] == wanted, number
        assert list(result.tokens) == case["tokens"], number
        if "rows" in case:
            assert [step.rows for step in result.stats.steps] == case["rows"], number
        assert result.stats.num_forwards <= case["forwards"], number
        dual = Engine(model, settings, cache=DualCache()).generate(case["prompt"])
        differing += dual.tokens != result.tokens
    assert len(cases) >= 20
    # The control: where rows are recomputed matters to what is committed.
    assert differing >= DIFFERENT


@pytest.mark.parametrize("name", list(POLICIES))
def test_each_request_has_a_session_of_its_own(golden_dir: Path, name: str) -> None:
    cases = json.loads((golden_dir / "policies" / name / "mha.json").read_text())["cases"][:10]
    model = load(golden_dir / "mha", device="cpu", dtype="float32")
    engine = Engine(model, slots=3)
    settings = [POLICIES[name](case) for case in cases]
    handles = [
        engine.submit(
            case["prompt"],
            cache=own.cache,
            unmask=own.unmask,
            gen_length=own.gen_length,
            block_length=own.block_length,
            steps=own.steps,
            eos_stop=False,
        )
        for case, own in zip(cases, settings, strict=True)
    ]
    for case, handle in zip(cases, handles, strict=True):
        assert list(handle.result(120).tokens) == case["tokens"]
