"""A window right of the block: what is beyond it is neither computed nor seen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from skipstone import ConfigError, Engine, Fixed, Settings, Threshold, load
from skipstone.cache import CachePolicy, CacheSession
from skipstone.canvas import Geometry, StepContext
from skipstone.diagnosis.diagnose import diagnose
from skipstone.diagnosis.experiment import Follow
from skipstone.diagnosis.finding import Proof
from skipstone.engine import parse_settings
from skipstone.engine.observe import StepView
from skipstone.rows import Rows
from skipstone.skip import NoSkip
from skipstone.testing.golden.case import GoldenCase
from skipstone.testing.golden.folder import read
from skipstone.unmask import UnmaskPolicy
from tests.helpers.recorded import alone, case_of, trace_of
from tests.helpers.watching import BASE, CACHES, LOW, Watcher, prompt_of, uneven_model

MODEL = uneven_model(2)
LONG = BASE.replace(gen_length=20, block_length=5, suffix_window=4)
PROMPTS = [prompt_of(n, 3 + 4 * n) for n in range(4)]


def block_by_block(prompt: list[int], settings: Settings) -> list[int]:
    """What each block gives in a canvas that ends where the window does."""
    tokens, length = list[int](), settings.block_length or 1
    for start, stop in pairwise([*range(0, settings.gen_length, length), settings.gen_length]):
        beyond = min(settings.suffix_window or 0, settings.gen_length - stop)
        one = settings.replace(
            suffix_window=None, gen_length=stop - start + beyond, block_length=stop - start
        )
        tokens += Engine(MODEL, one).generate([*prompt, *tokens]).tokens[: stop - start]
    return tokens


@pytest.mark.parametrize("window", [0, 1, 4, 7])
@pytest.mark.parametrize("kept", CACHES, ids=repr)
@pytest.mark.parametrize("unmask", [Fixed(), Threshold(0.3)], ids=repr)
@pytest.mark.parametrize("skip", [NoSkip(), LOW], ids=["no skip", "skip"])
def test_each_block_is_decoded_as_if_the_canvas_ended_with_its_window(
    window: int, kept: CachePolicy, unmask: UnmaskPolicy, skip: NoSkip
) -> None:
    settings = LONG.replace(suffix_window=window, cache=kept, unmask=unmask, skip=skip)
    for prompt in PROMPTS[:2]:
        tokens = Engine(MODEL, settings).generate(prompt).tokens
        assert list(tokens) == block_by_block(prompt, settings)


@pytest.mark.parametrize("kept", CACHES, ids=repr)
@pytest.mark.parametrize("runner", ["eager", "graph"])
@pytest.mark.parametrize("skip", [NoSkip(), LOW], ids=["no skip", "skip"])
def test_windows_of_all_lengths_share_a_batch(kept: CachePolicy, runner: str, skip: NoSkip) -> None:
    windows = [4, None, 0, 9, 1, 2, 4, None]
    prompts = [prompt_of(n, 3 + 2 * n) for n in range(len(windows))]
    base = LONG.replace(cache=kept, skip=skip)
    expected = [
        Engine(MODEL, base, suffix_window=window).generate(prompt).tokens
        for prompt, window in zip(prompts, windows, strict=True)
    ]
    # More requests than slots: what comes into a window must not be what another one left there.
    engine = Engine(MODEL, base, runner=runner, slots=3)  # pyrefly: ignore[bad-argument-type]
    handles = [
        engine.submit(prompt, suffix_window=window)
        for prompt, window in zip(prompts, windows, strict=True)
    ]
    assert [handle.result(60).tokens for handle in handles] == expected


@pytest.mark.parametrize("kept", CACHES, ids=repr)
def test_a_record_sees_no_further_than_the_window_and_is_replayed(kept: CachePolicy) -> None:
    trace = trace_of(LONG.replace(cache=kept))
    record = trace.records[0]
    assert record.header.settings["suffix_window"] == "4"
    for step in record.steps:
        end = min(step.block_stop + 4, record.length)
        assert step.rows.max() < end
        assert (step.entered_age[end:] == -1).all()
        assert (step.entered_age[:end] >= 0).all()
        # It moves with the block and at no other time.
        if step.refresh:
            assert step.rows.tolist() == list(range(end))
    led = alone(trace).ask(Follow("a", "a", (0, record.steps[-1].forward), tensors=True))
    assert led is not None
    for mine, theirs in zip(record.steps, led.records[0].steps, strict=True):
        assert mine.committed == theirs.committed
        assert np.array_equal(mine.candidates.confidence, theirs.candidates.confidence)


@dataclass
class Poisoner(Watcher):
    """Overwrites keys and values right of every window after each step."""

    window: int = 0

    def on_step(self, view: StepView) -> None:
        for at in view.context.requests:
            end = view.context.length_at(at)
            cells = slice(at.base + end, at.base + view.context.canvas.length_of(at.slot))
            for table in (view.store.keys, view.store.values):
                table[:, cells] = torch.nan


@pytest.mark.parametrize("kept", CACHES, ids=repr)
def test_what_lies_beyond_the_window_has_no_say(kept: CachePolicy) -> None:
    settings = LONG.replace(cache=kept, unmask=Threshold(0.3))
    for prompt in PROMPTS:
        right = Engine(MODEL, settings).generate(prompt).tokens
        assert Engine(MODEL, settings).generate(prompt, observer=Poisoner()).tokens == right


@dataclass(frozen=True)
class Lazy(CachePolicy):
    """Refreshes in the very first step alone; after it, computes the block."""

    def start(self, geometry: Geometry) -> CacheSession:
        return self

    def rows(self, context: StepContext) -> Rows:
        first, others = context.split(lambda at: at.forward == 0)
        return first.all_rows(refresh=True).beside(others.block_rows())


@pytest.mark.parametrize("window", [0, 3, 4])
def test_what_comes_in_is_computed_even_if_a_cache_does_not_say_so(window: int) -> None:
    settings = LONG.replace(cache=Lazy(), suffix_window=window)
    seen = Watcher()
    alone = Engine(MODEL, settings).generate(PROMPTS[1], observer=seen)
    for step in seen.steps:
        block = {(0, 7 + 5 * step.block + offset) for offset in range(5)}
        first = 7 + 5 * step.block + window
        entering = {(0, p) for p in range(first, min(first + 5, 27))} if step.step == 0 else set()
        if step.forward:
            assert step.rows == block | entering
    # Another request was there before, with other keys and values.
    engine = Engine(MODEL, settings, slots=1)
    engine.generate(PROMPTS[3])
    assert engine.generate(PROMPTS[1]).tokens == alone.tokens


def test_no_positions_at_all_is_a_growing_canvas() -> None:
    for kept in CACHES:
        none, grows = (
            Engine(MODEL, LONG, cache=kept, suffix_window=window, growing_canvas=window is None)
            for window in (0, None)
        )
        assert none.generate(PROMPTS[0]).tokens == grows.generate(PROMPTS[0]).tokens


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"growing_canvas": True}, "growing_canvas leaves nothing right of a block"),
        ({"suffix_window": 15}, "at most 15 of 20 new positions are right of a block of 5"),
        ({"block_length": 20}, "at most 0 of 20 new positions are right of a block of 20"),
    ],
)
def test_a_window_that_leaves_nothing_out_is_said(changes: dict[str, int], why: str) -> None:
    settings = LONG.replace(**changes)  # pyrefly: ignore[bad-argument-type]
    notes = Engine(MODEL, settings).generate(PROMPTS[0]).notes
    assert any(
        "suffix_window" in note and "has no effect" in note and why in note for note in notes
    )
    assert not any("suffix_window" in note for note in Engine(MODEL, LONG).generate([5]).notes)


@pytest.mark.parametrize("wrong", [-1, 1 << 30])
def test_a_window_out_of_range_is_refused(wrong: int) -> None:
    with pytest.raises(ConfigError, match=r"suffix_window is .*between 0 and"):
        Settings(suffix_window=wrong)


@pytest.mark.parametrize("kept", CACHES, ids=repr)
@pytest.mark.parametrize(("a", "b"), [(None, 1), (2, None), (2, 1)])
def test_a_window_is_named_as_the_cause_and_proved(
    kept: CachePolicy, a: int | None, b: int | None
) -> None:
    base = LONG.replace(cache=kept)
    mine, theirs = (base.replace(suffix_window=window) for window in (a, b))
    (found,) = diagnose(case_of(mine, theirs)).findings[:1]
    assert found.number == 16
    assert "suffix_window" in str(found.evidence)
    assert found.proof is Proof.NECESSARY_AND_SUFFICIENT


# --- recorded truth --------------------------------------------------------------------------


@pytest.mark.golden
@pytest.mark.parametrize("checkpoint", ["mha", "gqa", "deep"])
def test_rows_of_every_forward_are_the_recorded_ones(golden_dir: Path, checkpoint: str) -> None:
    folder = golden_dir / "policies" / "suffix_window_dpad"
    if not (folder / f"{checkpoint}.json").exists():
        pytest.skip(f"{checkpoint} is not recorded here")
    raw = json.loads((folder / f"{checkpoint}.json").read_text())["cases"]
    recorded = next(one for one in read(folder) if one.checkpoint.name == checkpoint)
    model = load(recorded.checkpoint, device="cpu", dtype="float32")
    for case, wanted in zip(recorded.cases, raw, strict=True):
        assert isinstance(case, GoldenCase)
        result = Engine(model, parse_settings(case.settings)).generate(list(case.prompt))
        rows = [step.rows for step in result.stats.steps]
        end = len(case.prompt) + wanted["block_length"] + wanted["params"]["window"]
        # The recorder noted the whole sequence for the first forward, whose commits are those of
        # the window; so it is told apart from the others here.
        assert rows[0] == min(end, len(case.prompt) + wanted["gen_length"])
        assert rows[1:] == wanted["lengths"][1:], case.name
