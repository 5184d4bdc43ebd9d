"""ES-dLLM's skip: recorded truth beside ours, who may not skip, and requests beside each other."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from skipstone import Engine, load
from skipstone.cache import CachePolicy, DualCache, NoCache, OnceCache, PrefixCache
from skipstone.engine import parse_settings
from skipstone.errors import ConfigError
from skipstone.policies import SKIP
from skipstone.record import StepRecord, Tap, TensorKey, TraceWriter, open_trace
from skipstone.skip import RatioSkip
from skipstone.skip.stages import Stage
from skipstone.testing.golden.case import GoldenCase
from skipstone.testing.golden.folder import read
from skipstone.testing.golden.replay import miss
from skipstone.tracing import Recorder
from tests.helpers.watching import BASE, prompt_of, uneven_model, watch

HALF = RatioSkip(keep="0.5@0+0.25@0.3", full_every=5)
CACHES = (OnceCache(4), DualCache(), PrefixCache(2), NoCache())


@pytest.mark.golden
@pytest.mark.parametrize(
    ("setting", "other"),
    [
        ("", ""),
        ("alpha=0.5", "alpha=0.4"),
        ("full_every=8", "full_every=7"),
        ("keep_neighbours=False", "keep_neighbours=True"),
        ("keep_committed=True", "keep_committed=False"),
        ("ties=torch", "ties=left"),
        ("once:refresh_every=16", "once:refresh_every=0"),
        ("once:refresh_every=64", "dual"),
    ],
)
def test_the_commits_of_every_step_are_the_recorded_ones_and_no_other_setting_has_them(
    golden_dir: Path, setting: str, other: str
) -> None:
    found = next(f for f in read(golden_dir / "policies/es_dllm") if f.checkpoint.name == "deep")
    model = load(found.checkpoint, device="cpu", dtype="float32")
    cases = [case for case in found.cases if isinstance(case, GoldenCase)]
    assert len(cases) == len(found.cases) == 13
    asked = [
        replace(case, settings={k: v.replace(setting, other) for k, v in case.settings.items()})
        for case in cases
        if not setting or any(setting in said for said in case.settings.values())
    ]
    missed = [said for case in asked if (said := miss(model, case))]
    assert bool(missed) == bool(setting)
    assert not any("refuses" in said for said in missed)


@pytest.mark.golden
def test_a_case_in_which_published_code_would_have_kept_eos_out_is_a_miss(
    golden_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = next(f for f in read(golden_dir / "policies/es_dllm") if f.checkpoint.name == "deep")
    model = load(found.checkpoint, device="cpu", dtype="float32")
    cases = [case for case in found.cases if isinstance(case, GoldenCase) and case.delays_eos]
    assert len(cases) == 11
    # Of its tokens, one is committed first where it may be, and is best right of a mask later.
    case, recorder = cases[4], Recorder()
    Engine(model, parse_settings(case.settings)).generate(case.prompt, observer=recorder)
    steps, said = recorder.records[0].steps, dict[bool, int]()
    # Any token may be EOS: nothing ends the answer, and it is what is recorded.
    for eos in sorted({c.token for step in steps for c in step.candidates if c.committed}):
        wanted = next((told for step in steps if (told := _delayed(step, eos))), "")
        with monkeypatch.context() as patch:
            patch.setattr(model.network, "config", replace(model.config, eos_id=eos))
            assert miss(model, case) == wanted
        said[bool(wanted)] = said.get(bool(wanted), 0) + 1
    assert min(said[True], said[False]) > 1
    assert not miss(model, replace(case, delays_eos=False))


def _delayed(step: StepRecord, eos: int) -> str:
    """What is said of a step in which EOS is the best token right of a mask, and nowhere yet."""
    start, masks = step.prompt_length, step.masked
    if eos in step.ids_before:
        return ""
    for one in step.candidates:
        at = one.position - start
        if one.token == eos and not one.age and at > step.block_start - start and masks[at - 1]:
            return (
                f"delay_eos_generation keeps EOS from offset {at} in forward {step.forward}, and "
                f"no setting does"
            )
    return ""


@pytest.mark.golden
@pytest.mark.parametrize("checkpoint", ["mha", "deep"])
def test_the_rows_of_every_forward_are_those_of_the_published_code(
    golden_dir: Path, checkpoint: str
) -> None:
    folder = golden_dir / "policies/es_dllm"
    recorded = json.loads((folder / f"{checkpoint}.json").read_text())["cases"]
    found = next(f for f in read(folder) if f.checkpoint.name == checkpoint)
    model = load(found.checkpoint, device="cpu", dtype="float32")
    for case, wanted in zip(found.cases, recorded, strict=True):
        assert isinstance(case, GoldenCase)
        recorder = Recorder()
        engine = Engine(model, parse_settings(case.settings))
        engine.generate(case.prompt, observer=recorder)
        rows = [step.rows for step in recorder.records[0].steps]
        assert [[int(r.min()), r.size] for r in rows] == wanted["computed"]


@pytest.mark.parametrize("keep", ["0.5@0.3", "0.5@0+0.25@0.3"])
def test_a_trace_says_before_which_layer_each_row_left_and_how_old_its_keys_are(
    keep: str, tmp_path: Path
) -> None:
    skip, model = RatioSkip(keep), uneven_model(1)
    recorder = Recorder("full", sink=TraceWriter(tmp_path / "x.trace"))
    Engine(model, BASE, cache=OnceCache(), skip=skip).generate(prompt_of(1, 7), observer=recorder)
    trace, before = open_trace(tmp_path / "x.trace"), None
    layers = range(1, model.config.num_layers + 1)
    left = {n for step in trace.steps(0) for n in step.left_before.tolist()} - {0}
    assert left == {layer + 1 for layer in skip.leaves_after(len(layers))}
    for step in trace.steps(0):
        assert step.skip_layer == min(set(step.left_before.tolist()) - {0}, default=0)
        for layer in layers:
            state, key = (
                trace.tensor(0, TensorKey(step.forward, tap, layer)) for tap in (Tap.STATE, Tap.KEY)
            )
            assert state is not None
            assert key is not None
            computed = np.sort(step.computed_in(layer))
            assert np.array_equal(np.sort(state.positions), computed)
            assert np.array_equal(key.positions[key.age == 0], computed)
            if before is not None:
                was = trace.tensor(0, TensorKey(before.forward, Tap.KEY, layer))
                assert was is not None
                old = key.age > 0
                assert np.array_equal(key.values[old], was.values[old])
                assert np.array_equal(key.age[old], was.age[old] + 1)
        before = step


@pytest.mark.parametrize("cache", CACHES, ids=["once", "dual", "prefix", "none"])
@pytest.mark.parametrize("skip", [HALF, replace(HALF, ties="torch")], ids=["left", "torch"])
def test_alone_is_as_in_a_batch(cache: CachePolicy, skip: RatioSkip) -> None:
    engine = Engine(uneven_model(1), BASE, cache=cache, skip=skip)
    prompts = [prompt_of(seed, length) for seed, length in ((1, 7), (2, 3), (3, 11))]
    alone = [engine.generate(prompt) for prompt in prompts]
    together = engine.generate_batch(prompts)
    assert [r.tokens for r in together] == [r.tokens for r in alone]
    assert [r.stats.skip_share for r in together] == [r.stats.skip_share for r in alone]
    assert all(r.stats.skip_share > 0.1 for r in alone)


@pytest.mark.parametrize("keep_committed", [True, False])
@pytest.mark.parametrize("keep_neighbours", [True, False])
def test_rows_just_committed_and_their_neighbours_may_not_skip(
    keep_committed: bool, keep_neighbours: bool
) -> None:
    # Parallel commits: where few are committed, the scores keep them anyway.
    skip = replace(HALF, alpha=1.0, keep_committed=keep_committed, keep_neighbours=keep_neighbours)
    committed_skips = neighbour_skips = 0
    for seed in range(4):
        engine = Engine(uneven_model(seed), BASE, cache=OnceCache(), skip=skip)
        _, watcher = watch(engine, prompt_of(seed, 7))
        for before, after in pairwise(watcher.steps):
            new = set(before.committed)
            near = {(b, p + d) for b, p in new for d in (-1, 1)} - new
            committed_skips += len(after.skipped & new)
            neighbour_skips += len(after.skipped & near)
    assert (committed_skips == 0) == keep_committed
    assert (neighbour_skips == 0) == (keep_committed and keep_neighbours)


@pytest.mark.parametrize("window", [0, 2])
def test_what_comes_into_sight_with_a_block_is_computed(window: int) -> None:
    settings = BASE.replace(cache=OnceCache(), suffix_window=window, skip=HALF)
    for seed in range(3):
        _, watcher = watch(Engine(uneven_model(seed), settings), prompt_of(seed, 7))
        computed = set[int]()
        for step in watcher.steps:
            computed |= {position for _, position in step.rows}
            assert computed == set(range(min(7 + 18, 7 + 6 * (step.block + 1) + window)))


def test_stages_are_the_first_layers_from_a_depth_on() -> None:
    assert RatioSkip().stages(32) == (Stage(5, 0.5), Stage(9, 0.25))
    assert RatioSkip().stages(8) == (Stage(2, 0.5), Stage(3, 0.25))
    with pytest.raises(ConfigError, match="after layer 2, the last of this model"):
        RatioSkip("0.5@0.9").stages(2)


@pytest.mark.parametrize(
    "text",
    [
        "keep=",
        "keep=0.5",
        "keep=0.5@1",
        "keep=1@0",
        "keep=0.2@0+0.5@0.5",
        "alpha=2",
        "full_every=-1",
    ],
)
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="ratio "):
        SKIP.parse(f"ratio:{text}")
    with pytest.raises(ConfigError, match="refresh_every is -1"):
        OnceCache(-1)
