"""Committed tokens that are taken back: by what a shadow says, how often, and who is told."""

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
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

import skipstone
from skipstone import Engine, Settings, Threshold
from skipstone.blocks import Block
from skipstone.cache import CachePolicy
from skipstone.canvas import Canvas, Status, StepContext
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.diagnosis.diagnose import diagnose
from skipstone.diagnosis.finding import Proof
from skipstone.engine.forward import shadow
from skipstone.errors import ConfigError, PolicyError
from skipstone.memory.shadow import ShadowKV
from skipstone.models.base import Network
from skipstone.ops.model import dispatch as ops
from skipstone.record import RunRecord, StepRecord
from skipstone.rows import Rows
from skipstone.skip import CosineSkip, NoSkip, SkipPolicy
from skipstone.testing.checkpoint import write_checkpoint
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import ExperimentRunner, Side
from skipstone.unmask import Editing, HostScores, Need, Scores, UnmaskPolicy, Wino
from tests.conftest import context_at
from tests.helpers.recorded import case_of, record, trace_of
from tests.helpers.watching import BASE, CACHES, LOW, ending_model, prompt_of, uneven_model

WIDE = Wino(0.2, 0.9)
"""Commits and takes back much on random weights."""
CALM = Wino(0.3, 0.5)
PROMPT = prompt_of(1, 5)


def of(
    unmask: UnmaskPolicy, cache: CachePolicy = CACHES[0], skip: SkipPolicy | None = None
) -> Settings:
    return BASE.replace(block_length=9, unmask=unmask, cache=cache, skip=skip or NoSkip())


def run_of(settings: Settings) -> RunRecord:
    return trace_of(settings).records[0]


# --- what the shadow sees -------------------------------------------------------------------------


class Appended:
    """The published form: the block once more behind the sequence, and a table of who sees whom."""

    def __init__(self, network: Network, rows: Rows, seen_NN: Tensor) -> None:
        config = network.config
        shape = (rows.num_rows, config.num_kv_heads, config.head_width)
        self.keys, self.values = torch.empty(2, *shape, dtype=network.dtype)
        self.rows = dataclasses.replace(rows, position=np.arange(rows.num_rows))
        self.seen_NN = seen_NN

    def write(
        self,
        layer: int,
        rows: Rows,
        qkv_NHE: Tensor,
        angles_2NR: Tensor,
        norms: ops.HeadNorms | None = None,
    ) -> Tensor:
        return ops.rotate_and_write(qkv_NHE, angles_2NR, self.keys, self.values, self.rows, norms)

    def attend(self, layer: int, q_NHE: Tensor, rows: Rows) -> Tensor:
        heads = q_NHE.shape[1] // self.keys.shape[1]
        key_HNE, value_HNE = (
            kept.repeat_interleave(heads, 1).transpose(0, 1) for kept in (self.keys, self.values)
        )
        out_HNE = F.scaled_dot_product_attention(
            q_NHE.transpose(0, 1), key_HNE, value_HNE, attn_mask=self.seen_NN
        )
        return out_HNE.transpose(0, 1).flatten(1)


def unseen(network: Network, step: StepRecord) -> np.ndarray:
    """The probability of what stands in the block, by one forward over sequence and shadow."""
    mask_id = network.config.mask_id
    ids = [*PROMPT, *step.ids_before.tolist()]
    block, length = np.arange(step.block_start, step.block_stop), len(ids)
    positions = np.concatenate([np.arange(length), block])
    rows = dataclasses.replace(
        Rows.spans([(0, 0, positions.size)], network.device), position=positions
    )
    seen_NN = torch.ones(positions.size, positions.size, dtype=torch.bool)
    seen_NN[:length, length:] = False
    seen_NN[length + np.arange(block.size), block] = False
    appended = Appended(network, rows, seen_NN)
    x_ND = network.embed(torch.tensor([*ids, *[mask_id] * block.size]))
    for layer in range(network.config.num_layers):
        x_ND = network.layer(layer, x_ND, network.angles(rows), rows, appended)
    logits_NV = network.head(network.final_norm(x_ND[length:])).double()
    return logits_NV.softmax(-1)[np.arange(block.size), np.array(ids)[block]].numpy()


@pytest.mark.parametrize("heads", [4, 2])
@torch.inference_mode()
def test_a_shadow_says_what_the_published_input_does(heads: int) -> None:
    model = uneven_model(2, num_kv_heads=heads)
    recorder = Recorder("decisions")
    Engine(model, of(WIDE)).generate(PROMPT, observer=recorder)
    run = recorder.trace.records[0]
    judged = 0
    for step in run.steps:
        wanted = unseen(model.network, step)
        for candidate in step.candidates:
            if not step.masked[candidate.position - step.prompt_length]:
                right = wanted[candidate.position - step.block_start]
                assert candidate.confidence == pytest.approx(right, rel=1e-9)
                assert candidate.token == model.config.mask_id
                judged += 1
    assert judged > 10


def test_nobody_else_sees_the_shadow_and_no_cell_changes() -> None:
    engine, cast, found = Engine(uneven_model(1), of(WIDE)), shadow.cast_shadow, list[bool]()

    def checked(network: Network, store: object, context: StepContext) -> shadow.Shadow | None:
        before = store.keys.clone(), store.values.clone()  # type: ignore[attr-defined]
        made = cast(network, store, context)  # type: ignore[arg-type]
        after = store.keys, store.values  # type: ignore[attr-defined]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        found.append(made is not None)
        return made

    with patch("skipstone.engine.step.cast_shadow", checked):
        engine.generate(PROMPT)
    # Nothing is committed before the first step of a block.
    assert found[0] is False
    assert any(found)


def test_without_it_nothing_is_computed() -> None:
    with patch.object(ShadowKV, "__init__", side_effect=AssertionError):
        result = Engine(uneven_model(1), of(Threshold(0.5))).generate(PROMPT)
    assert not any(step.shadow_rows for step in result.stats.steps)


# --- the rule -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", CACHES, ids=repr)
@pytest.mark.parametrize("skip", [NoSkip(), LOW], ids=repr)
@pytest.mark.parametrize("unmask", [WIDE, CALM, Wino(0.0, 1.0)], ids=repr)
def test_a_block_ends_after_as_many_steps_as_it_has_masks(
    unmask: Wino, cache: CachePolicy, skip: SkipPolicy
) -> None:
    run = run_of(of(unmask, cache, skip))
    revoked = 0
    for block in range(2):
        steps = [step for step in run.steps if step.block == block]
        assert len(steps) <= 9
        accepted = [len(step.committed) - len(step.revoked) for step in steps]
        assert all(accepted)
        for step, before, count in zip(steps[1:], accepted, accepted[1:], strict=False):
            assert len(step.revoked) < before
            assert count > 1 or not step.revoked
            # What this step has committed is not in question.
            assert step.revoked == step.edited
            revoked += len(step.revoked)
        assert not steps[0].revoked
        assert steps[-1].masks_after == 0
    assert revoked
    result = Engine(uneven_model(1), of(unmask, cache, skip)).generate(PROMPT)
    assert result.stats.num_revoked == revoked
    assert result.stats.num_edits == 0
    assert result.masks_left == 0
    assert "taken back" in str(result.stats)


def test_what_is_taken_back_is_a_mask_that_is_decoded_again() -> None:
    run, mask = run_of(of(WIDE)), uneven_model(1).config.mask_id
    for step, after in zip(run.steps, run.steps[1:], strict=False):
        for position in step.revoked:
            offset = position - step.prompt_length
            candidate = step.candidates.at(position)
            assert candidate is not None
            assert candidate.confidence < 0.9
            assert candidate.age == 0
            assert step.ids_after[offset] == mask
            assert step.status_before[offset] == Status.COMMITTED
            assert step.status_after[offset] == Status.MASK
            assert after.masked[offset]


HELD = st.lists(
    st.tuples(
        st.sampled_from([-inf, 0.0, 0.3, 0.5, 0.75, 1.0]),
        st.sampled_from(["mask", "committed", "just committed", "given"]),
    ),
    min_size=1,
    max_size=30,
)


@hypothesis_settings(deadline=None, derandomize=True, max_examples=300)
@given(HELD, st.builds(Wino, *[st.sampled_from([0.0, 0.3, 0.75, 1.0])] * 2), st.integers(0, 2))
def test_a_replayed_decision_is_the_policys(
    row: list[tuple[float, str]], unmask: Wino, at: int
) -> None:
    length = len(row)
    canvas = Canvas.start([[1]], length, 0, torch.device("cpu"))
    sure, kinds = map(np.array, zip(*row, strict=True))
    masks, new = kinds == "mask", kinds == "just committed"
    held = new | (kinds == "committed")
    status = np.where(masks, Status.MASK, np.where(held, Status.COMMITTED, Status.PROMPT))
    canvas.status_BL[0, 1:] = torch.from_numpy(status)
    confidence, doubts = np.where(masks, sure, -inf), np.where(held, sure, -inf)
    offered = Scores(
        torch.zeros(1, length, dtype=torch.int64),
        torch.from_numpy(confidence)[None],
        revisable=torch.from_numpy(doubts)[None],
    )
    context = context_at(canvas, Block(0, 0, length), at, length)
    before_BL = torch.zeros_like(canvas.ids_BL, dtype=torch.bool)
    before_BL[0, 1:] = torch.from_numpy(new | (masks & (sure == 0.5)))
    context = dataclasses.replace(context, committed_BL=before_BL)
    common = {
        "step_budget": length,
        "block_length": length,
        "block": 0,
        "block_start": 0,
        "block_stop": length,
    }
    nothing = np.zeros(length)
    last = HostScores(
        np.arange(length),
        np.zeros(length, np.int64),
        nothing,
        *[nothing] * 3,
        step=at - 1,
        masks_left=int((masks | new).sum()),
        held=np.where(masks | new, -1, 4),
        **common,
    )
    scores = HostScores(
        np.arange(length),
        np.zeros(length, np.int64),
        confidence,
        *[nothing] * 3,
        step=at,
        masks_left=int(masks.sum()),
        held=np.where(held, 4, -1),
        revisable=doubts,
        earlier=(last,),
        **common,
    )
    if at == 0:
        # Nothing of a block is committed before its first step.
        scores = dataclasses.replace(scores, revisable=np.full(length, -inf))
        offered = dataclasses.replace(offered, revisable=torch.full((1, length), -inf).double())
    chosen = unmask.select(offered, context)[0].numpy()
    assert chosen.tolist() == unmask.replay(scores).tolist()
    assert not (chosen & ~masks & ~held).any()
    back = int((chosen & held).sum())
    assert back == 0 or back < int(new.sum())


@pytest.mark.parametrize(("masks", "most"), [(4, 5), (8, 5), (10, 7), (29, 20), (40, 20)])
def test_a_step_commits_no_more_than_published(masks: int, most: int) -> None:
    canvas = Canvas.start([[1]], masks, 0, torch.device("cpu"))
    sure_BG = torch.full((1, masks), 0.9, dtype=torch.float64)
    none_BG = torch.full_like(sure_BG, -inf)
    offered = Scores(torch.zeros(1, masks).long(), sure_BG, revisable=none_BG)
    context = context_at(canvas, Block(0, 0, masks), 0, masks)
    chosen_BG = Wino().select(offered, context)
    # Of equal ones, the lowest positions.
    assert chosen_BG[0].nonzero()[:, 0].tolist() == list(range(min(masks, most)))


@pytest.mark.parametrize("cache", CACHES, ids=repr)
@pytest.mark.parametrize("skip", [NoSkip(), LOW], ids=repr)
def test_a_recorded_run_keeps_to_its_rule(cache: CachePolicy, skip: SkipPolicy) -> None:
    for unmask in (WIDE, CALM):
        run = run_of(of(unmask, cache, skip))
        rule = CommitRule.of(run)
        assert rule is not None
        assert [rule.commits(step) for step in run.steps] == [s.committed for s in run.steps]


def test_a_skip_that_never_skips_changes_nothing() -> None:
    never = CosineSkip(skip_layer_k=3, skip_threshold=1.0)
    plain, skipping = (
        Engine(uneven_model(1), of(WIDE, CACHES[2], skip)).generate(PROMPT)
        for skip in (NoSkip(), never)
    )
    assert plain.tokens == skipping.tokens
    assert plain.stats.num_revoked == skipping.stats.num_revoked > 0


# --- beside others, and told as it goes -----------------------------------------------------------

MIXED = [WIDE, Threshold(0.5), CALM, Editing(0.3, 0.1, post_steps=1), Threshold(0.3), WIDE]


@pytest.mark.parametrize("cache", CACHES, ids=repr)
@pytest.mark.parametrize("runner", ["eager", "graph"])
@pytest.mark.parametrize("skip", [NoSkip(), LOW], ids=repr)
def test_each_gives_alone_what_it_gives_beside_others(
    cache: CachePolicy, runner: Literal["eager", "graph"], skip: SkipPolicy
) -> None:
    model = ending_model(0)
    chosen = BASE.replace(block_length=9, cache=cache, skip=skip, eos_stop=True)
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
    assert any(one.stats.num_revoked for one in alone)


@torch.inference_mode()
def test_no_step_is_lost_where_steps_are_launched_ahead() -> None:
    engine = Engine(uneven_model(1), of(WIDE))
    prompts = [prompt_of(n, 4 + n) for n in range(3)]
    loop = engine.start(prompts)
    loop.ahead, loop.stepper.overlaps = 1, True
    found = [tuple(done.ids_G.tolist()) for done in loop.decode()]
    assert found == [engine.generate(prompt).tokens for prompt in prompts]


def test_a_stream_tells_what_can_no_longer_be_taken_back() -> None:
    handle = Engine(uneven_model(1), of(WIDE)).submit(PROMPT)
    told = dict[int, int]()
    for commit in handle:
        assert commit.position not in told
        told[commit.position] = commit.token
    result = handle.result()
    assert result.stats.num_revoked > 0
    assert tuple(told[at] for at in range(18)) == result.tokens


def test_a_stop_id_ends_a_request_once_it_can_no_longer_be_taken_back() -> None:
    model, taken_back = uneven_model(1), 0
    free, steps = Engine(model, of(WIDE)).generate(PROMPT), run_of(of(WIDE)).steps
    for stop in range(60):
        result = Engine(model, of(WIDE).replace(stop_ids=(stop,))).generate(PROMPT)
        block = next((b for b in range(2) if stop in free.tokens[9 * b : 9 * b + 9]), None)
        if block is None:
            assert result.tokens == free.tokens
            taken_back += any(stop in step.ids_after for step in steps)
            continue
        end = 9 * (block + 1)
        assert result.tokens[:end] == free.tokens[:end]
        assert set(result.tokens[end:]) <= {model.config.eos_id}
    assert taken_back


def test_given_tokens_of_a_canvas_are_never_taken_back() -> None:
    engine, mask = Engine(uneven_model(1), of(Wino(0.0, 1.0))), uneven_model(1).config.mask_id
    given = [mask] * 18
    given[2], given[11], given[13] = 9, 11, 12
    result = engine.edit([*PROMPT, *given])
    assert result.stats.num_revoked > 0
    new = result.tokens[-len(given) :]
    assert [a for a, b in zip(new, given, strict=True) if b != mask] == [9, 11, 12]
    assert mask not in new
    # Nobody doubts them: they have no row in the shadow.
    assert {step.shadow_rows for step in result.stats.steps} <= {0, 7, 8}


@pytest.mark.parametrize("top_p", [None, 0.8])
def test_what_is_drawn_may_be_taken_back(top_p: float | None) -> None:
    drawn = of(WIDE).replace(temperature=0.7, top_p=top_p, seed=3)
    once, again = (Engine(uneven_model(1), drawn).generate(PROMPT) for _ in range(2))
    assert once.tokens == again.tokens
    assert once.masks_left == 0
    assert once.stats.num_revoked > 0


# --- refused --------------------------------------------------------------------------------------


def test_a_model_that_scores_a_position_by_another_row_is_refused(tmp_path: Path) -> None:
    dream = skipstone.load(write_checkpoint(tmp_path, architecture="DreamModel"), device="cpu")
    with pytest.raises(ConfigError, match=r"Wino.*DreamModel.*scored by the row 1 to its left"):
        Engine(dream, unmask="wino")


@pytest.mark.parametrize("wrong", ["value=1.5", "back=-0.1", "back=nan", "value=x"])
def test_values_out_of_their_range_are_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
        Settings(unmask=f"wino:{wrong}")


def test_what_has_no_effect_is_said() -> None:
    result = Engine(uneven_model(1), of(Wino(0.4, 0.0))).generate(PROMPT)
    assert any("takes nothing back" in note for note in result.notes)
    assert result.stats.num_revoked == 0


def test_what_it_needs_is_said_to_those_who_forgot() -> None:
    @dataclasses.dataclass(frozen=True)
    class Forgot(Wino):
        @property
        def needs(self) -> frozenset[Need]:
            return frozenset()

    with pytest.raises(PolicyError, match=r"Need\.COMMITTED in its needs"):
        Engine(uneven_model(1), of(Forgot())).generate(PROMPT)


# --- what diagnosis says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Wino(0.2, 0.05), "unmask.back: 0.9 against 0.05"),
        (Wino(0.2, 0.0), "unmask.back: 0.9 against 0.0"),
    ],
)
def test_another_bound_is_named(other: UnmaskPolicy, said: str) -> None:
    found = diagnose(case_of(of(WIDE), of(other)))
    assert found.cause is not None
    assert found.cause.rule == "commit-rule"
    assert str(found.cause.what) == "only one run takes these committed tokens back"
    assert said in str(found.cause.evidence)
    assert found.cause.proof is Proof.NECESSARY_AND_SUFFICIENT


def back_below(value: float) -> AbstractContextManager[object]:
    """The bound is another than is stated."""
    select = Wino.select

    def wrong(self: Wino, scores: Scores, context: StepContext) -> Tensor:
        return select(dataclasses.replace(self, back=value), scores, context)

    return patch.object(Wino, "select", wrong)


@pytest.mark.parametrize("fault", [lambda: back_below(0.0), lambda: back_below(0.05)])
def test_what_is_taken_back_against_the_settings_is_told(
    fault: Callable[[], AbstractContextManager[object]],
) -> None:
    model, settings = uneven_model(1), of(WIDE)
    a = record(settings)
    with fault():
        b = record(settings)
    mine, theirs = Side(a, 0, Engine(model, settings)), Side(b, 0, Engine(model, settings), fault)
    found = diagnose(Case(a, b, ExperimentRunner(mine, theirs, model)))
    assert found.cause is not None
    told = (found.cause.rule, str(found.cause.what))
    assert told == ("commit-rule", "committed tokens are taken back against the rule")
    same = diagnose(Case(a, a, ExperimentRunner(mine, mine, model)))
    assert same.cause is None
