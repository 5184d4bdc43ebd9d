"""Row i of a batch is the prompt alone: tokens, work of every step, and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipstone import CosineSkip, DualCache, Engine, Fixed, Model, NoCache, NoSkip, PrefixCache
from skipstone.alike import Alike
from skipstone.cache import CachePolicy, D2Cache, DelayedCache, ElasticCache, VicinityCache
from skipstone.canvas import Geometry, StepContext
from skipstone.diff import compare
from skipstone.engine import Result, Settings
from skipstone.engine.observe import StepView
from skipstone.engine.request import Done
from skipstone.engine.score import scorer
from skipstone.engine.settings import Budget
from skipstone.ops.model import reference
from skipstone.rows import Rows
from skipstone.skip import SkipPolicy
from skipstone.testing.tiny import EOS
from skipstone.tracing import Recorder
from skipstone.unmask import DreamThreshold, Editing, Factor, Scores, Threshold, UnmaskPolicy
from tests.helpers.watching import ending_model, prompt_of, uneven_model

MODELS = [ending_model(0), ending_model(1), uneven_model(2), uneven_model(3, num_kv_heads=2)]
CACHES: list[CachePolicy] = [
    NoCache(),
    PrefixCache(),
    DualCache(),
    DualCache(refresh_every=3),
    VicinityCache(2, 3, warmup=1),
    VicinityCache(1, 1, warmup=2, refresh_every=3, published=True),
    DelayedCache(4),
    ElasticCache(0.97),
    D2Cache(4, 3.0, 0.05),
]
UNMASKS: list[UnmaskPolicy] = [
    Fixed(),
    Threshold(0.4),
    Threshold(0.9),
    Factor(1.0),
    Fixed("entropy", "time", first_alone=True),
    Fixed("margin", "time"),
    DreamThreshold(0.4),
    DreamThreshold(0.2, cached=False),
    Editing(0.3, 0.1, post_steps=3),
    Editing(0.5, 0.0, each=2, post_steps=0),
]
SKIPS: list[SkipPolicy] = [
    NoSkip(),
    CosineSkip(3, 0.8, 0.5),
    CosineSkip(2, 0.5, -1.0, keep_committed=False, keep_neighbours=False),
    CosineSkip(4, 0.7, 0.2, reference="previous_step"),
]
BUDGETS: list[Budget] = ["finish", "stop"]
PROPERTY = settings(
    deadline=None,
    derandomize=True,
    max_examples=24,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@st.composite
def any_settings(draw: st.DrawFn, *, random_order: bool = False) -> Settings:
    gen_length = draw(st.integers(2, 18))
    block_length = draw(st.integers(2, 10))
    budget = draw(st.sampled_from(BUDGETS))
    unmask = Fixed("random") if random_order else draw(st.sampled_from(UNMASKS))
    temperature = draw(st.sampled_from([0.0, 0.0, 0.7, 1.5]))
    steps = None
    if unmask.uses_steps or budget == "stop":
        least = -(-gen_length // block_length)
        steps = draw(st.none() | st.integers(least, gen_length))
    seeded = unmask.uses_seed or temperature > 0
    cache = draw(st.sampled_from(CACHES))
    names_rows = isinstance(cache, ElasticCache | D2Cache)
    return Settings(
        cache=cache,
        unmask=unmask,
        skip=NoSkip() if names_rows else draw(st.sampled_from(SKIPS)),
        gen_length=gen_length,
        block_length=block_length,
        steps=steps,
        temperature=temperature,
        top_p=draw(st.sampled_from([None, None, 0.6])),
        top_k=draw(st.sampled_from([None, None, 4])),
        seed=draw(st.integers(0, 1000)) if seeded else None,
        eos_stop=draw(st.booleans()),
        budget=budget,
    )


any_prompts = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(1, 40)).map(lambda it: prompt_of(*it)),
    min_size=1,
    max_size=5,
)


def assert_each_is_alone(
    engine: Engine, prompts: Sequence[Sequence[int]], batch_size: int | None = None
) -> None:
    # More places than prompts are a note of the batch, which no prompt has alone.
    places = None if batch_size is None else min(batch_size, len(prompts))
    together = engine.generate_batch(list(prompts), batch_size=places)
    for prompt, row in zip(prompts, together, strict=True):
        alone = engine.generate(prompt)
        assert row.tokens == alone.tokens
        assert row.text == alone.text
        assert row.masks_left == alone.masks_left
        assert row.stats.num_forwards == alone.stats.num_forwards
        assert row.stats.skip_share == alone.stats.skip_share
        assert row.stats.steps == alone.stats.steps
        assert row.notes == alone.notes


@PROPERTY
@given(st.sampled_from(MODELS), any_settings(), any_prompts)
def test_a_row_of_a_batch_is_the_prompt_alone(
    model: Model, chosen: Settings, prompts: list[list[int]]
) -> None:
    assert_each_is_alone(Engine(model, chosen), prompts)


@torch.inference_mode()
def decoded(engine: Engine, prompts: list[list[int]], *, packs: bool) -> list[Done]:
    run = engine.start(prompts, batch_size=2)
    # At a temperature rows are always packed: noise is drawn for each that is scored.
    run.batch.runner.packs = packs or engine.settings.temperature > 0
    return run.decode()


@PROPERTY
@given(st.sampled_from(MODELS), any_settings(), any_prompts)
def test_rows_that_are_computed_in_vain_change_nothing(
    model: Model, chosen: Settings, prompts: list[list[int]]
) -> None:
    engine = Engine(model, chosen)
    packed, masked = (decoded(engine, prompts, packs=packs) for packs in (True, False))
    for mine, theirs in zip(packed, masked, strict=True):
        assert mine.ids_G.tolist() == theirs.ids_G.tolist()
        assert mine.status_G.tolist() == theirs.status_G.tolist()
        assert mine.stats == theirs.stats


@dataclass(frozen=True)
class Careless(SkipPolicy):
    """Drops every row that it is asked about, those that may not skip too."""

    def start(self, geometry: Geometry) -> Careless:
        return self

    @property
    def scores(self) -> None:
        return None

    @property
    def decides_after(self) -> tuple[int, ...]:
        return (2,)

    def expect(self, rows: Rows) -> None:
        pass

    def forget(self, request: int) -> None:
        pass

    def learn(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> None:
        pass

    def keep(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> Tensor | None:
        return torch.zeros(rows.num_rows, dtype=torch.bool) if layer == 2 else None


def test_no_policy_can_drop_rows_of_a_request_that_refreshes() -> None:
    engine = Engine(
        MODELS[2], unmask=Threshold(0.4), skip=Careless(), gen_length=12, block_length=4
    )
    prompts = [prompt_of(seed, 3 + 2 * seed) for seed in range(4)]
    # In a batch some begin a block while others are asked about.
    assert_each_is_alone(engine, prompts, 2)
    assert any(result.stats.skip_share == 1.0 for result in engine.generate_batch(prompts))


@PROPERTY
@given(st.sampled_from(MODELS), any_settings(), any_prompts, st.integers(1, 3))
def test_a_prompt_that_takes_the_place_of_another_is_as_if_alone(
    model: Model, chosen: Settings, prompts: list[list[int]], batch_size: int
) -> None:
    assert_each_is_alone(Engine(model, chosen), prompts, batch_size)


@PROPERTY
@given(st.sampled_from(MODELS), any_settings(random_order=True), any_prompts, st.integers(1, 3))
def test_a_prompt_that_takes_the_place_of_another_draws_as_if_alone(
    model: Model, chosen: Settings, prompts: list[list[int]], batch_size: int
) -> None:
    assert_each_is_alone(Engine(model, chosen), prompts, batch_size)


def test_a_place_that_is_free_is_taken_while_others_go_on() -> None:
    engine = Engine(MODELS[2], unmask=Threshold(0.4), gen_length=18, block_length=6)
    prompts = [prompt_of(seed, 3 + seed) for seed in range(6)]
    seen = list[tuple[tuple[int, int], ...]]()

    class Watching(Recorder):
        def on_step(self, view: StepView) -> None:
            seen.append(tuple((p.sample, p.block.index) for p in view.context.requests))
            super().on_step(view)

    recorder = Watching()
    results = engine.generate_batch(prompts, batch_size=2, observer=recorder)
    assert all(len(step) <= 2 for step in seen)
    assert any(len({block for _, block in step}) == 2 for step in seen)
    work = sum(result.stats.num_forwards for result in results)
    assert len(seen) < work
    # Nobody waits for another one: both places are taken until no prompt waits any more.
    assert all(len(step) == 2 for step in seen if max(sample for sample, _ in step) < 5)
    for prompt, record in zip(prompts, recorder.records, strict=True):
        alone = Recorder()
        engine.generate(prompt, observer=alone)
        assert compare(record, alone.records[0]).identical
        steps = zip(record.steps, alone.records[0].steps, strict=True)
        assert all(a.forward == b.forward and (a.rows == b.rows).all() for a, b in steps)


@PROPERTY
@given(st.sampled_from(MODELS), any_settings(random_order=True), any_prompts)
def test_a_row_of_a_batch_is_the_prompt_alone_in_random_order(
    model: Model, chosen: Settings, prompts: list[list[int]]
) -> None:
    assert_each_is_alone(Engine(model, chosen), prompts)


@dataclass
class HesitantSession:
    """Commits nothing for a request whenever masks and prompt add up so, once each time."""

    refused_B: Tensor

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        canvas = context.canvas
        active_B = torch.zeros(canvas.batch, dtype=torch.bool)
        active_B[list(context.active)] = True
        size_B = canvas.masked_BG().sum(1) + torch.tensor(canvas.prompt_lengths)
        refuse_B = (size_B % 3 == 0) & ~self.refused_B
        self.refused_B = torch.where(active_B, refuse_B, self.refused_B)
        return Threshold(0.5).select(scores, context) & ~refuse_B[:, None]

    def forget(self, request: int) -> None:
        self.refused_B[request] = False


@dataclass(frozen=True)
class Hesitant(UnmaskPolicy):
    def start(self, geometry: Geometry) -> HesitantSession:
        return HesitantSession(torch.zeros(geometry.batch, dtype=torch.bool))


def test_a_request_that_needs_a_second_try_leaves_the_others_alone() -> None:
    # The second try is a forward for that request alone; the others must not forget meanwhile
    # what they committed, or their next skip is another.
    engine = Engine(
        MODELS[2], unmask=Hesitant(), skip=CosineSkip(2, 0.3, -1.0), gen_length=18, block_length=9
    )
    recoveries = list[int]()
    for first in range(4):
        prompts = [prompt_of(first + i, 3 + first + i) for i in range(4)]
        assert_each_is_alone(engine, prompts)
        results = engine.generate_batch(prompts)
        recoveries += [sum(step.recovery for step in r.stats.steps) for r in results]
    assert len(set(recoveries)) > 1


def run_sixteen(engine: Engine) -> list[Result]:
    return engine.generate_batch([prompt_of(seed, 1 + 2 * seed) for seed in range(16)])


@pytest.mark.parametrize("cache", CACHES[:3], ids=["none", "prefix", "dual"])
def test_requests_of_a_batch_part_ways(cache: CachePolicy) -> None:
    # Without differing lengths, stops and skips in one batch, the property above would be idle.
    engine = Engine(
        MODELS[0],
        cache=cache,
        unmask=Threshold(0.4),
        skip=SKIPS[1],
        gen_length=18,
        block_length=6,
    )
    results = run_sixteen(engine)
    assert len({result.stats.num_forwards for result in results}) > 3
    assert len({result.stats.skip_share for result in results}) > 5
    stopped = [EOS in result.tokens[:-1] for result in results]
    assert any(stopped)
    assert not all(stopped)
    unstopped = run_sixteen(Engine(engine.model, engine.settings, eos_stop=False))
    assert sum(r.stats.num_forwards for r in results) < sum(r.stats.num_forwards for r in unstopped)


def test_temperature_and_seed_change_the_tokens() -> None:
    base = Settings(gen_length=12, block_length=6)
    prompt = prompt_of(1, 7)
    warm = [
        Engine(MODELS[2], base, temperature=1.5, seed=seed).generate(prompt) for seed in range(3)
    ]
    assert len({result.tokens for result in warm}) == 3
    assert Engine(MODELS[2], base).generate(prompt).tokens not in {r.tokens for r in warm}


def test_scoring_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(MODELS[2], gen_length=14, block_length=7, temperature=1.0, seed=5)
    prompts = [prompt_of(seed, 3 + 5 * seed) for seed in range(4)]
    whole = [result.tokens for result in engine.generate_batch(prompts)]
    bytes_of_a_row = 8 * engine.model.config.vocab_size
    monkeypatch.setattr(scorer, "_PIECE_BYTES", 3 * bytes_of_a_row)
    assert [result.tokens for result in engine.generate_batch(prompts)] == whole


def test_padding_is_never_attended(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(MODELS[2], gen_length=10, block_length=5)
    long, short = prompt_of(1, 30), prompt_of(2, 4)
    alone = engine.generate(short).tokens
    assert engine.generate_batch([long, short])[1].tokens == alone

    # The control: a request whose rows see further than its end sees the next one's keys.
    attend_alike = reference._attend_alike

    def further(q: Tensor, k: Tensor, v: Tensor, rows: Rows, part: Alike, shown: None) -> Tensor:
        return attend_alike(q, k, v, rows, part._replace(bound=part.bound + 8), shown)

    monkeypatch.setattr(reference, "_attend_alike", further)
    assert engine.generate_batch([short, long])[0].tokens != alone


def test_random_order_is_that_of_the_prompt_alone_when_requests_take_more_steps() -> None:
    # A skip can leave fewer masks to choose from than the share asks for, so one request needs
    # more steps for a block than another; draws for the first must not use up those of the other.
    forwards = set[int]()
    for seed in range(3):
        engine = Engine(
            uneven_model(seed),
            unmask=Fixed("random"),
            seed=1,
            skip=CosineSkip(2, 0.5, -1.0),
            gen_length=24,
            block_length=8,
            steps=8,
        )
        prompts = [prompt_of(i, 3 + i) for i in range(4)]
        together = engine.generate_batch(prompts)
        forwards |= {result.stats.num_forwards for result in together}
        alone = [engine.generate(prompt).tokens for prompt in prompts]
        assert [result.tokens for result in together] == alone
    assert len(forwards) > 1
