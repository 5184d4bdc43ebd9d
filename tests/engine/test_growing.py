"""A canvas that grows: nothing right of the block exists; and what ends it, or moves its blocks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from skipstone import Engine, Fixed, Settings, Threshold
from skipstone.cache import CachePolicy
from skipstone.diagnosis.experiment import Follow
from skipstone.diagnosis.finding import Finding
from skipstone.diagnosis.rules import region_boundaries
from skipstone.skip import NoSkip
from skipstone.testing.tiny import EOS
from skipstone.unmask import UnmaskPolicy
from tests.helpers.recorded import alone, case_of, trace_of
from tests.helpers.watching import BASE, CACHES, LOW, prompt_of, uneven_model

MODEL = uneven_model(2)
GROWING = BASE.replace(growing_canvas=True, block_length=5)
PROMPTS = [prompt_of(n, 3 + 4 * n) for n in range(4)]


def block_by_block(prompt: list[int], settings: Settings) -> list[int]:
    """What each block gives as the only one behind all that was written before."""
    tokens, most = list[int](), settings.block_length or 1
    edges = [*range(0, settings.gen_length, most), settings.gen_length]
    for start, stop in pairwise(edges):
        length = stop - start
        steps = None if settings.steps is None else settings.steps * length // settings.gen_length
        one = settings.replace(
            growing_canvas=False, gen_length=length, block_length=length, steps=steps
        )
        tokens += Engine(MODEL, one).generate([*prompt, *tokens]).tokens
    return tokens


@pytest.mark.parametrize("kept", CACHES, ids=repr)
@pytest.mark.parametrize("unmask", [Fixed(), Threshold(0.3)], ids=repr)
@pytest.mark.parametrize("skip", [NoSkip(), LOW], ids=["no skip", "skip"])
def test_each_block_is_decoded_as_if_it_were_the_last(
    kept: CachePolicy, unmask: UnmaskPolicy, skip: NoSkip
) -> None:
    settings = GROWING.replace(cache=kept, unmask=unmask, skip=skip)
    for prompt in PROMPTS[:2]:
        tokens = Engine(MODEL, settings).generate(prompt).tokens
        assert list(tokens) == block_by_block(prompt, settings)


@pytest.mark.parametrize("kept", CACHES, ids=repr)
@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_growing_and_full_requests_share_a_batch(kept: CachePolicy, runner: str) -> None:
    kinds = [
        GROWING.replace(cache=kept),
        BASE.replace(cache=kept, absolute_blocks=True),
        GROWING.replace(cache=kept, block_length=7, gen_length=11),
        GROWING.replace(cache=kept, unmask=Fixed("left_to_right")),
    ]
    pairs = list(zip(PROMPTS, kinds, strict=True))
    expected = [Engine(MODEL, one).generate(prompt).tokens for prompt, one in pairs]
    engine = Engine(MODEL, BASE, runner=runner)  # pyrefly: ignore[bad-argument-type]
    changes = [{n: getattr(one, n) for n in Settings.__dataclass_fields__} for one in kinds]
    handles = [engine.submit(p, **c) for (p, _), c in zip(pairs, changes, strict=True)]
    assert [handle.result(60).tokens for handle in handles] == expected


@pytest.mark.parametrize("kept", CACHES, ids=repr)
def test_a_record_sees_no_further_than_the_canvas_and_is_replayed(kept: CachePolicy) -> None:
    trace = trace_of(GROWING.replace(cache=kept))
    record = trace.records[0]
    assert record.header.settings["growing_canvas"] == "true"
    for step in record.steps:
        assert step.rows.max() < step.block_stop
        assert (step.entered_age[step.block_stop :] == -1).all()
    last = record.steps[-1].forward
    led = alone(trace).ask(Follow("a", "a", (0, last), tensors=True))
    assert led is not None
    for mine, theirs in zip(record.steps, led.records[0].steps, strict=True):
        assert mine.committed == theirs.committed
        assert np.array_equal(mine.candidates.confidence, theirs.candidates.confidence)
    # Another canvas gives other scores from the first step on.
    full = trace_of(BASE.replace(cache=kept, block_length=5)).records[0].steps[0]
    sure = record.steps[0].candidates.confidence
    assert not np.array_equal(full.candidates.confidence, sure)


def test_absolute_blocks_lie_on_multiples_of_their_length() -> None:
    record = trace_of(BASE.replace(absolute_blocks=True)).records[0]
    starts = {step.block_start for step in record.steps}
    assert min(starts) == record.prompt_length
    assert BASE.block_length == 6
    assert all(start % 6 == 0 for start in starts - {min(starts)})
    at_zero = Engine(MODEL, BASE.replace(absolute_blocks=True)).generate(prompt_of(3, 12)).tokens
    assert at_zero == Engine(MODEL, BASE).generate(prompt_of(3, 12)).tokens


@pytest.mark.parametrize("growing", [True, False])
def test_a_stop_after_the_block_keeps_what_is_behind_it(growing: bool) -> None:
    plain = GROWING.replace(growing_canvas=growing, unmask=Fixed())
    whole = Engine(MODEL, plain).generate(PROMPTS[2]).tokens
    # One of the second block that is none of the first.
    stop = next(token for token in whole[5:10] if token not in whole[:5])
    ended = Engine(MODEL, plain, stop_ids=[stop], stop_after="block").generate(PROMPTS[2])
    assert ended.tokens[:10] == whole[:10]
    assert set(ended.tokens[10:]) == {EOS}
    assert ended.length == whole.index(stop)
    assert ended.stats.num_forwards == 10


def test_what_has_no_effect_is_said() -> None:
    one_block = GROWING.replace(block_length=18, stop_after="block")
    said = Engine(MODEL, one_block).generate(PROMPTS[0]).notes
    assert any("growing_canvas has no effect" in note for note in said)
    assert any("stop_after=block has no effect" in note for note in said)
    assert not Engine(MODEL, replace(GROWING, steps=None)).generate(PROMPTS[0]).notes


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("growing_canvas", BASE.replace(growing_canvas=True)),
        ("absolute_blocks", BASE.replace(absolute_blocks=True)),
    ],
)
def test_where_blocks_lie_is_the_reason_that_is_told(name: str, other: Settings) -> None:
    found = region_boundaries.examine(case_of(BASE, other))
    assert isinstance(found, Finding)
    assert name in str(found.evidence)
    # A run that keeps to its settings is not blamed for where its blocks lie.
    assert region_boundaries.examine(case_of(other, other)) is None
