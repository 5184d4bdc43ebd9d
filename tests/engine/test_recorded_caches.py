"""Caches commit what their published code committed, from the rows that it computed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from skipstone import DualCache, Engine, Model, load
from skipstone.density import certainty_density
from skipstone.engine import Result, Settings, parse_settings
from skipstone.engine.observe import StepView, Taps
from skipstone.host_canvas import Status
from skipstone.testing.golden.case import GoldenCase
from skipstone.testing.golden.folder import read
from skipstone.testing.golden.replay import miss

pytestmark = pytest.mark.golden

RECORDED = [
    ("vicinity", "mha"),
    ("vicinity", "gqa"),
    ("vicinity", "deep"),
    ("dkv_cache_decode", "mha"),
    ("dkv_cache_decode", "deep"),
    ("dllm_cache", "mha"),
    ("dllm_cache", "deep"),
    ("dllm_cache_d2cache", "mha"),
    ("dllm_cache_d2cache", "gqa"),
    ("sparse_dllm", "mha"),
    ("sparse_dllm", "gqa"),
    ("sparse_dllm", "deep"),
    ("d2cache", "mha"),
    ("d2cache", "deep"),
]
TIE = "d2cache/mha 19"
"""Two masks of it are equally good, but for rounding."""
DIFFERENT = 6
"""Of the cases of a checkpoint, at least so many are not those of the dual cache."""


@cache
def model_of(golden_dir: Path, checkpoint: str) -> Model:
    return load(golden_dir / checkpoint, device="cpu", dtype="float32")


def cases_of(golden_dir: Path, name: str, checkpoint: str) -> list[GoldenCase]:
    (found,) = (
        folder
        for folder in read(golden_dir / "policies" / name)
        if folder.checkpoint.name == checkpoint
    )
    cases = [case for case in found.cases if isinstance(case, GoldenCase)]
    assert len(cases) == len(found.cases) >= 14
    return cases


def recorded(golden_dir: Path, name: str, checkpoint: str) -> list[dict[str, Any]]:
    return json.loads((golden_dir / "policies" / name / f"{checkpoint}.json").read_text())["cases"]


def settings_of(case: GoldenCase) -> Settings:
    return parse_settings(case.settings).all_stated()


@pytest.mark.parametrize(("name", "checkpoint"), RECORDED)
def test_tokens_and_the_commits_of_every_step_are_the_recorded_ones(
    golden_dir: Path, name: str, checkpoint: str
) -> None:
    model, cases = model_of(golden_dir, checkpoint), cases_of(golden_dir, name, checkpoint)
    assert {case.name for case in cases if miss(model, case)} <= {TIE}
    # The control: where rows are recomputed matters to what is committed.
    dual = (Engine(model, settings_of(case), cache=DualCache()) for case in cases)
    tokens = [engine.generate(case.prompt).tokens for engine, case in zip(dual, cases, strict=True)]
    pairs = zip(tokens, cases, strict=True)
    assert sum(other != case.wanted.tokens for other, case in pairs) >= DIFFERENT


class Gaps:
    """Notes by how much the best mask of each step is better than the next, as a part of it."""

    def __init__(self, sigma: float) -> None:
        self.taps, self.found, self._sigma = Taps(), list[float](), sigma

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        """Nothing is noted."""

    def on_step(self, view: StepView) -> None:
        """Of the products that a step was decided by."""
        masked_G = view.before.status_BG[0] == Status.MASK
        density_G = certainty_density(~masked_G, self._sigma)
        confidence_G = view.board.confidence_BG[0].numpy()
        known = masked_G & (view.board.scored_at_BG[0].numpy() == view.context.only.forward)
        best = sorted(confidence_G[known] * density_G[known], reverse=True)
        self.found.append(1.0 if len(best) == 1 else 1 - best[1] / best[0])

    def on_end(self, results: Sequence[Result]) -> None:
        """Nothing is left to note."""


def test_what_is_decided_otherwise_is_a_tie_of_float32(golden_dir: Path) -> None:
    (case,) = (case for case in cases_of(golden_dir, "d2cache", "mha") if case.name == TIE)
    result = Engine(model_of(golden_dir, "mha"), settings_of(case)).generate(case.prompt)
    assert result.tokens == case.wanted.tokens
    exact, gaps = load(golden_dir / "mha", device="cpu", dtype="float64"), Gaps(10.0)
    Engine(exact, settings_of(case)).generate(case.prompt, observer=gaps)
    # The only one so close: by the next, float32 decides as it should.
    closest, next_one = sorted(gaps.found)[:2]
    assert gaps.found[12] == closest < 1e-6 < 1e-5 < next_one


@pytest.mark.parametrize("checkpoint", ["mha", "deep"])
def test_a_delayed_cache_computes_as_many_rows_as_its_published_code(
    golden_dir: Path, checkpoint: str
) -> None:
    name = "dkv_cache_decode"
    wanted = [case["rows"] for case in recorded(golden_dir, name, checkpoint)]
    model, cases = model_of(golden_dir, checkpoint), cases_of(golden_dir, name, checkpoint)
    results = [Engine(model, settings_of(case)).generate(case.prompt) for case in cases]
    assert [[step.rows for step in result.stats.steps] for result in results] == wanted


@pytest.mark.parametrize(
    ("name", "setting", "other"),
    [
        ("vicinity", "published=true", "published=false"),
        ("vicinity", "before=4,after=8", "before=4,after=0"),
        ("vicinity", "before=8,after=8", "before=0,after=8"),
        ("vicinity", "warmup=4", "warmup=1"),
        ("vicinity", "refresh_every=8", "refresh_every=3"),
        ("dkv_cache_decode", "refresh_every=2", "refresh_every=3"),
        ("dkv_cache_decode", "refresh_every=100", "refresh_every=4"),
        ("dllm_cache", "prompt_every=8", "prompt_every=4"),
        ("dllm_cache", "response_every=4", "response_every=5"),
        ("dllm_cache", "ratio=0.25", "ratio=0.3"),
        ("dllm_cache", "ratio=1.0", "ratio=0.9"),
        ("sparse_dllm", "keep_ratio=0.5", "keep_ratio=0.55"),
        ("sparse_dllm", "keep_ratio=1.0", "keep_ratio=0.9"),
        ("sparse_dllm", "kernel_size=3", "kernel_size=1"),
        ("sparse_dllm", "kernel_size=1", "kernel_size=3"),
        ("sparse_dllm", "ties=torch", "ties=position"),
        ("d2cache", "published=true", "published=false"),
        ("d2cache", "rollout_p=0.3", "rollout_p=0.25"),
        ("d2cache", "current_k=8", "current_k=7"),
        ("d2cache", "inflate_w=4", "inflate_w=3"),
        ("d2cache", "sigma=10.0", "sigma=2.0"),
    ],
)
def test_another_setting_misses_some(golden_dir: Path, name: str, setting: str, other: str) -> None:
    changed = [
        replace(case, settings={**case.settings, "cache": spelled.replace(setting, other)})
        for case in cases_of(golden_dir, name, "deep")
        if setting in (spelled := case.settings["cache"])
    ]
    missed = [miss(model_of(golden_dir, "deep"), case) for case in changed]
    assert any(missed)
    assert not any("refuses" in said for said in missed)


@pytest.mark.parametrize("other", ["certainty:sigma=5.0", "fixed"])
def test_another_prior_misses_some(golden_dir: Path, other: str) -> None:
    changed = [
        replace(case, settings={**case.settings, "unmask": other})
        for case in cases_of(golden_dir, "d2cache", "deep")
        if case.settings["unmask"].startswith("certainty:")
    ]
    assert len(changed) == 9
    assert any(miss(model_of(golden_dir, "deep"), case) for case in changed[:3])


def test_masks_about_as_unsure_as_the_best_are_committed_with_it(golden_dir: Path) -> None:
    cases, model = cases_of(golden_dir, "vicinity", "mha"), model_of(golden_dir, "mha")
    plain = [
        replace(case, settings={**case.settings, "unmask": unmask.removeprefix("dinfer_")})
        for case in cases
        if (unmask := case.settings["unmask"])
    ]
    assert any(miss(model, case) for case in plain)


@pytest.mark.parametrize(
    "name", ["vicinity", "dkv_cache_decode", "dllm_cache", "sparse_dllm", "d2cache"]
)
def test_each_request_has_a_session_of_its_own(golden_dir: Path, name: str) -> None:
    cases = cases_of(golden_dir, name, "deep")[:12]
    engine = Engine(model_of(golden_dir, "deep"), slots=3)
    handles = []
    for case in cases:
        own = settings_of(case)
        handles.append(
            engine.submit(
                case.prompt,
                cache=own.cache,
                unmask=own.unmask,
                gen_length=own.gen_length,
                block_length=own.block_length,
                steps=own.steps,
                eos_stop=False,
            )
        )
    for case, handle in zip(cases, handles, strict=True):
        assert handle.result(120).tokens == case.wanted.tokens
