"""Committed tokens that are replaced: what is written, when a block ends, and what is final."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from math import inf
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from skipstone import Engine, Settings, Threshold
from skipstone.blocks import Block
from skipstone.cache import CachePolicy
from skipstone.canvas import Canvas, Status, StepContext
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.diagnosis.diagnose import diagnose
from skipstone.diagnosis.finding import Proof
from skipstone.diff import compare
from skipstone.engine.observe import StepView
from skipstone.engine.progress import RequestState
from skipstone.engine.score.scorer import Scorer
from skipstone.errors import ConfigError, PolicyError, SkipstoneError
from skipstone.record import RunRecord, TraceWriter, open_trace
from skipstone.skip import NoSkip, SkipPolicy
from skipstone.tracing.experiments.runner import ExperimentRunner, Side
from skipstone.unmask import Editing, HostScores, Need, Scores, UnmaskPolicy
from tests.conftest import context_at
from tests.helpers.recorded import case_of, record, trace_of
from tests.helpers.watching import BASE, CACHES, LOW, Looking, ending_model, prompt_of, uneven_model

EAGER = Editing(0.3, 0.0, post_steps=4)
"""Sure of little, so that it edits much on random weights."""
CALM = Editing(0.5, 0.3, each=2, post_steps=2)
PROMPT = prompt_of(1, 5)


def of(
    unmask: UnmaskPolicy, cache: CachePolicy = CACHES[2], skip: SkipPolicy | None = None
) -> Settings:
    return BASE.replace(unmask=unmask, cache=cache, skip=skip or NoSkip())


def run_of(settings: Settings) -> RunRecord:
    return trace_of(settings).records[0]


@pytest.mark.parametrize("cache", CACHES, ids=repr)
@pytest.mark.parametrize("unmask", [EAGER, CALM, Editing(0.3, 0.0, post_steps=0)], ids=repr)
def test_a_block_goes_on_until_nothing_changes(cache: CachePolicy, unmask: Editing) -> None:
    run = run_of(of(unmask, cache))
    assert any(step.edited for step in run.steps)
    for block in range(3):
        steps = [step for step in run.steps if step.block == block]
        post = [step for step in steps if not step.masks_before]
        assert len(post) <= unmask.post_steps
        assert steps[len(steps) - len(post) :] == post
        assert all(step.committed for step in steps[:-1])
        # It ends with a step that changes nothing, or with the last one that may.
        assert not steps[-1].committed or len(post) == unmask.post_steps
    assert run.outcome is not None
    assert run.outcome.masks_left == 0


@pytest.mark.parametrize("skip", [NoSkip(), LOW], ids=repr)
def test_edits_are_of_committed_tokens_of_the_block_by_scores_of_this_step(
    skip: SkipPolicy,
) -> None:
    edits = 0
    for step in run_of(of(EAGER, skip=skip)).steps:
        start = step.prompt_length
        changed = np.flatnonzero((step.ids_before != step.ids_after) & ~step.masked) + start
        assert tuple(changed.tolist()) == step.edited
        for position in step.edited:
            candidate = step.candidates.at(position)
            assert candidate is not None
            assert candidate.age == 0
            assert candidate.token == step.ids_after[position - start]
            assert step.block_start <= position < step.block_stop
        edits += len(step.edited)
    assert edits
    result = Engine(uneven_model(1), of(EAGER, skip=skip)).generate(PROMPT)
    assert sum(step.edited for step in result.stats.steps) == edits
    assert result.stats.num_edits == edits


def test_nothing_is_edited_where_nothing_is_sure_enough() -> None:
    model = uneven_model(1)
    plain, never = (
        Engine(model, of(unmask)).generate(PROMPT)
        for unmask in (Editing(0.5, 1.0, post_steps=0), Editing(0.5, 1.0))
    )
    assert never.tokens == plain.tokens
    # One more forward for each block says that it stays as it is.
    assert never.stats.num_forwards == plain.stats.num_forwards + 3
    assert never.stats.num_edits == 0


HELD = st.lists(
    st.tuples(
        st.sampled_from([-inf, 0.0, 0.3, 0.5, 0.75, 1.0]),
        st.sampled_from([4, 5]),
        st.sampled_from([Status.MASK, Status.COMMITTED]),
    ),
    min_size=1,
    max_size=12,
)


@hypothesis_settings(deadline=None, derandomize=True, max_examples=300)
@given(
    HELD,
    st.builds(
        Editing, st.sampled_from([0.0, 0.3, 0.9]), st.sampled_from([0.0, 0.3]), st.integers(1, 3)
    ),
)
def test_a_replayed_edit_is_the_policys(
    row: list[tuple[float, int, Status]], unmask: Editing
) -> None:
    length = len(row)
    canvas = Canvas.start([[1]], length, 0, torch.device("cpu"))
    sure, token, status = map(np.array, zip(*row, strict=True))
    held = np.where(status == Status.COMMITTED, 4, -1)
    canvas.status_BL[0, 1:] = torch.from_numpy(status)
    canvas.ids_BL[0, 1:] = torch.from_numpy(np.where(held < 0, 0, held))
    masks, tokens = np.where(held < 0, sure, -inf), np.where(held < 0, -inf, sure)
    offered = Scores(
        torch.from_numpy(token)[None],
        torch.from_numpy(masks)[None],
        revisable=torch.from_numpy(tokens)[None],
    )
    context = context_at(canvas, Block(0, 0, length), 0, length)
    none = np.zeros(length)
    scores = HostScores(
        np.arange(length),
        token,
        masks,
        *[none] * 3,
        block=0,
        step=0,
        step_budget=length,
        block_length=length,
        block_start=0,
        block_stop=length,
        masks_left=int((held < 0).sum()),
        held=held,
        revisable=tokens,
    )
    assert unmask.select(offered, context)[0].tolist() == unmask.replay(scores).tolist()


@pytest.mark.parametrize("cache", CACHES, ids=repr)
@pytest.mark.parametrize("skip", [NoSkip(), LOW], ids=repr)
def test_a_recorded_run_keeps_to_its_rule(cache: CachePolicy, skip: SkipPolicy) -> None:
    for unmask in (EAGER, CALM):
        run = run_of(of(unmask, cache, skip))
        rule = CommitRule.of(run)
        assert rule is not None
        assert [rule.commits(step) for step in run.steps] == [s.committed for s in run.steps]


MIXED = [EAGER, Threshold(0.5), CALM, Editing(0.3, 0.1, post_steps=0), Threshold(0.3), EAGER]


@pytest.mark.parametrize("cache", CACHES, ids=repr)
@pytest.mark.parametrize("runner", ["eager", "graph"])
@pytest.mark.parametrize("skip", [NoSkip(), LOW], ids=repr)
def test_each_gives_alone_what_it_gives_beside_others(
    cache: CachePolicy, runner: Literal["eager", "graph"], skip: SkipPolicy
) -> None:
    model = ending_model(0)
    chosen = BASE.replace(cache=cache, skip=skip, eos_stop=True)
    prompts = [prompt_of(n, 3 + 2 * n) for n in range(len(MIXED))]
    alone = [
        Engine(model, chosen, unmask=unmask).generate(prompt)
        for unmask, prompt in zip(MIXED, prompts, strict=True)
    ]
    engine = Engine(model, chosen, runner=runner, slots=3)
    handles = [
        engine.submit(prompt, unmask=unmask) for unmask, prompt in zip(MIXED, prompts, strict=True)
    ]
    for handle, one in zip(handles, alone, strict=True):
        assert handle.result().tokens == one.tokens
        assert handle.result().stats.steps == one.stats.steps
    assert any(one.stats.num_edits for one in alone)


def ahead(engine: Engine, prompts: list[list[int]]) -> list[tuple[int, ...]]:
    """Decoded as on a card, where steps are launched before the one before is completed."""
    loop = engine.start(prompts)
    loop.ahead, loop.stepper.overlaps = 1, True
    return [tuple(done.ids_G.tolist()) for done in loop.decode()]


@pytest.mark.parametrize("unmask", [EAGER, CALM, Editing(0.3, 0.1, post_steps=1)], ids=repr)
@torch.inference_mode()
def test_no_step_is_lost_where_steps_are_launched_ahead(unmask: Editing) -> None:
    engine = Engine(uneven_model(1), of(unmask))
    prompts = [prompt_of(n, 4 + n) for n in range(3)]
    assert ahead(engine, prompts) == [engine.generate(prompt).tokens for prompt in prompts]


def test_others_are_not_scored_where_they_are_committed() -> None:
    seen = list[int]()

    def look(view: StepView) -> None:
        rows = 0 if view.scored is None else view.scored.num_rows
        seen.append(
            rows - int((view.before.status_BG[:, : view.context.only.block.stop] == 2).sum())
        )

    for unmask, more in ((Threshold(0.5), False), (EAGER, True)):
        seen.clear()
        Engine(uneven_model(1), of(unmask)).generate(PROMPT, observer=Looking(look))
        assert any(seen) == more


def test_whoever_did_not_ask_replaces_nothing() -> None:
    @dataclasses.dataclass(frozen=True)
    class Everything(UnmaskPolicy):
        def select(self, scores: Scores, context: StepContext) -> Tensor:
            assert scores.revisable is None
            return torch.ones_like(scores.confidence_BG, dtype=torch.bool)

    engine = Engine(uneven_model(1), of(EAGER), slots=2)
    handles = [engine.submit(PROMPT, unmask=unmask) for unmask in (Everything(), EAGER)]
    assert handles[0].result().stats.num_edits == 0
    assert handles[0].result().stats.num_forwards == 3
    assert handles[1].result().stats.num_edits > 0


def test_a_stream_tells_what_can_no_longer_be_edited() -> None:
    engine = Engine(uneven_model(1), of(EAGER))
    handle = engine.submit(PROMPT)
    told, texts = dict[int, int](), list[str]()
    for commit in handle:
        assert commit.position not in told
        told[commit.position] = commit.token
        texts.append(commit.text)
    result = handle.result()
    assert result.stats.num_edits > 0
    assert tuple(told[at] for at in range(18)) == result.tokens
    assert all(result.text.startswith(text) for text in texts)
    assert texts[-1] == result.text


def test_a_cancelled_request_leaves_its_slot() -> None:
    engine = Engine(uneven_model(1), of(EAGER), slots=1)
    gone, stays = engine.submit(PROMPT), engine.submit(PROMPT)
    for _ in gone:
        gone.cancel()
    assert stays.result().tokens == engine.generate(PROMPT).tokens


@pytest.mark.parametrize("stop_after", ["token", "block"])
def test_a_stop_id_ends_a_request_once_it_can_no_longer_be_edited(
    stop_after: Literal["token", "block"],
) -> None:
    model, ended, edited_away = uneven_model(1), 0, 0
    free = Engine(model, of(EAGER)).generate(PROMPT)
    steps = run_of(of(EAGER)).steps
    for stop in range(60):
        settings = of(EAGER).replace(stop_ids=(stop,), stop_after=stop_after)
        result = Engine(model, settings).generate(PROMPT)
        block = next((b for b in range(3) if stop in free.tokens[6 * b : 6 * b + 6]), None)
        if block is None:
            assert result.tokens == free.tokens
            edited_away += any(stop in step.ids_after for step in steps)
            continue
        # All that was decided by then is what it is without the stop id, and nothing else is.
        end = 6 * (block + 1)
        assert result.tokens[:end] == free.tokens[:end]
        assert result.stats.steps == free.stats.steps[: len(result.stats.steps)]
        assert max(step.block for step in result.stats.steps) == block
        assert set(result.tokens[end:]) <= {model.config.eos_id}
        ended += block < 2
    assert ended
    assert edited_away


def test_a_stop_id_ends_a_request_where_the_budget_ends_its_block() -> None:
    model = uneven_model(1)
    # All masks are committed at once; the second step edits, and is the last of the budget.
    short = of(Editing(0.0, 0.0)).replace(budget="stop", steps=6)
    free = Engine(model, short).generate(PROMPT)
    assert [(s.step, s.edited > 0) for s in free.stats.steps[:2]] == [(0, False), (1, True)]
    for stop in free.tokens[:6]:
        result = Engine(model, short.replace(stop_ids=(stop,))).generate(PROMPT)
        assert result.stats.steps == free.stats.steps[:2]
        assert result.tokens[:6] == free.tokens[:6]


def test_given_tokens_of_a_canvas_are_never_edited() -> None:
    engine, mask = Engine(uneven_model(1), of(EAGER)), uneven_model(1).config.mask_id
    given = [mask, mask, 9, mask, 11, mask, mask, 12]
    result = engine.edit([*PROMPT, *given])
    new = result.tokens[-len(given) :]
    assert [a for a, b in zip(new, given, strict=True) if b != mask] == [9, 11, 12]


def test_a_number_that_is_none_where_a_token_is_committed_ends_the_request() -> None:
    revisable = Scorer._revisable

    def broken(self: Scorer, context: StepContext) -> Tensor:
        table_BG = revisable(self, context)
        return table_BG.masked_fill(table_BG != -inf, torch.nan)

    with patch.object(Scorer, "_revisable", broken), pytest.raises(SkipstoneError, match="finite"):
        Engine(uneven_model(1), of(EAGER)).generate(PROMPT)


def test_a_trace_of_a_run_that_was_killed_has_its_edits(tmp_path: Path) -> None:
    whole = run_of(of(EAGER))
    with TraceWriter(tmp_path / "killed") as sink:
        sink.begin([whole.header], "decisions")
        for step in whole.steps[:6]:
            sink.step(0, step, {})
    with open_trace(tmp_path / "killed") as trace:
        (killed,) = trace.records
        rule = CommitRule.of(killed)
        assert rule is not None
        assert [step.edited for step in killed.steps] == [s.edited for s in whole.steps[:6]]
        assert [rule.commits(step) for step in killed.steps] == [s.committed for s in killed.steps]
        assert compare(whole, killed).first is not None
    assert any(step.edited for step in whole.steps[:6])


@pytest.mark.parametrize(
    "wrong", ["threshold=1.5", "edit=-0.1", "edit=nan", "each=0", "post_steps=-1", "post_steps=1.5"]
)
def test_values_out_of_their_range_are_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
        Settings(unmask=f"editing:{wrong}")


def test_what_it_needs_is_said_to_those_who_forgot() -> None:
    @dataclasses.dataclass(frozen=True)
    class Forgot(Editing):
        @property
        def needs(self) -> frozenset[Need]:
            return frozenset()

    with pytest.raises(PolicyError, match=r"must name Need\.COMMITTED in its needs"):
        Engine(uneven_model(1), of(Forgot())).generate(PROMPT)


# --- what diagnosis says --------------------------------------------------------------------------

STATED = Editing(0.5, 0.3, post_steps=3)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Editing(0.5, 0.1, post_steps=3), "unmask.edit: 0.3 against 0.1; B edits 1 in block 0"),
        (Editing(0.5, 0.3, post_steps=0), "unmask.post_steps: 3 against 0; A edits 4 in block 0"),
        (Threshold(0.5), "unmask: editing against threshold; A edits 1 in block 0, step 1"),
    ],
)
def test_another_rule_of_edits_is_named(other: UnmaskPolicy, said: str) -> None:
    found = diagnose(case_of(of(STATED), of(other)))
    assert found.cause is not None
    assert found.cause.rule == "commit-rule"
    assert str(found.cause.what) == "only one run edits these committed tokens"
    assert said in str(found.cause.evidence)
    assert found.cause.proof is Proof.NECESSARY_AND_SUFFICIENT


def edits_above(value: float) -> AbstractContextManager[object]:
    """The bound of edits is another than is stated."""
    select = Editing.select

    def wrong(self: Editing, scores: Scores, context: StepContext) -> Tensor:
        return select(dataclasses.replace(self, edit=value), scores, context)

    return patch.object(Editing, "select", wrong)


def without_post_steps() -> AbstractContextManager[object]:
    """A block ends with its last mask."""
    return patch.object(RequestState, "_may_revise", False)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda: edits_above(0.0), "committed tokens are edited against the rule"),
        (lambda: edits_above(1.0), "committed tokens are edited against the rule"),
        (without_post_steps, "a block ends while tokens of it still change"),
    ],
)
def test_edits_against_the_settings_are_told(
    fault: Callable[[], AbstractContextManager[object]], said: str
) -> None:
    model, settings = uneven_model(1), of(STATED)
    a = record(settings)
    with fault():
        b = record(settings)
    mine, theirs = Side(a, 0, Engine(model, settings)), Side(b, 0, Engine(model, settings), fault)
    found = diagnose(Case(a, b, ExperimentRunner(mine, theirs, model)))
    assert found.cause is not None
    assert (found.cause.rule, str(found.cause.what)) == ("commit-rule", said)
    same = diagnose(Case(a, a, ExperimentRunner(mine, mine, model)))
    assert same.cause is None
