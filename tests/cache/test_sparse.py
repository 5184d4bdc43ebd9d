"""Which keys Sparse-dLLM keeps, and what it says and refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone import (
    ConfigError,
    CosineSkip,
    DualCache,
    Engine,
    Fixed,
    NoCache,
    Settings,
    Threshold,
)
from skipstone.cache import CachePolicy, SparseCache, kept_keys
from skipstone.cache.kept_keys import best_of, mean_scores, pooled
from skipstone.canvas import StepContext
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import diagnose
from skipstone.diagnosis.finding import Finding, Proof
from skipstone.engine.observe import StepView
from skipstone.rows import Rows
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import ExperimentRunner, Side
from tests.helpers.watching import BASE, Looking, places, prompt_of, uneven_model
from tests.models.test_contracts import CONFIGS, model_of

PROMPT = prompt_of(1, 7)
LENGTH = len(PROMPT) + BASE.gen_length
SETTINGS = BASE.replace(unmask=Fixed())
SHIFTED = [n for n, c in CONFIGS.items() if c.reach.score_offset and not c.reach.block_size]
CAUSAL = [name for name, config in CONFIGS.items() if config.reach.block_size]


@dataclass(frozen=True)
class TwiceWhole(CachePolicy):
    """All rows in the first two steps of a block, then the block's; every key is seen."""

    def rows(self, context: StepContext) -> Rows:
        whole, cached = context.split(lambda at: at.step < 2)
        return whole.changed_rows().beside(cached.block_rows())


def tokens(cache: CachePolicy, **changes: Any) -> tuple[int, ...]:
    return Engine(uneven_model(1), SETTINGS.replace(cache=cache, **changes)).generate(PROMPT).tokens


def test_a_key_scores_by_the_mean_query_of_all_heads_that_share_it() -> None:
    q_RHE, key_MUE = torch.randn(5, 6, 4), torch.randn(9, 2, 4)
    wanted = [
        np.mean([float(q_RHE[:, h].mean(0) @ key_MUE[m, h // 3]) for h in range(6)])
        for m in range(9)
    ]
    assert mean_scores(q_RHE, key_MUE).tolist() == pytest.approx(wanted, abs=1e-6)


def test_neighbours_share_the_best_score() -> None:
    score_M = torch.tensor([0.0, 5, 0, 0, 0, 3, 0])
    assert pooled(score_M, 1).tolist() == score_M.tolist()
    assert pooled(score_M, 3).tolist() == [5, 5, 5, 0, 3, 3, 3]
    assert pooled(score_M, 5).tolist() == [5, 5, 5, 5, 3, 3, 3]
    assert pooled(score_M[:0], 3).tolist() == []


def test_of_equal_keys_the_lowest_positions_are_kept() -> None:
    score_M = torch.tensor([1.0, 2, 2, 2, 0, 2, 1] * 40)
    assert best_of(score_M, 7, lowest=True).tolist() == [1, 2, 3, 5, 8, 9, 10]
    assert sorted(best_of(score_M, 7, lowest=False).tolist()) != [1, 2, 3, 5, 8, 9, 10]


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.99])
def test_as_many_keys_are_seen_as_settings_say_and_the_block_always(ratio: float) -> None:
    sets = dict[int, list[tuple[int, ...]]]()

    def look(view: StepView) -> None:
        at, visible_YBL = view.context.only, view.store.visible_YBL
        block = set(range(at.start, at.stop))
        if at.step < 2:
            assert visible_YBL is None
            assert {p for _, p in places(view.rows)} == set(range(LENGTH))
            assert view.rows.refreshed
            return
        assert visible_YBL is not None
        assert {p for _, p in places(view.rows)} == block
        seen = [tuple(np.flatnonzero(one).tolist()) for one in visible_YBL[:, 0, :LENGTH].numpy()]
        assert all(set(one) >= block for one in seen)
        assert {len(one) - len(block) for one in seen} == {int((LENGTH - len(block)) * ratio)}
        assert sets.setdefault(at.block.index, seen) == seen

    engine = Engine(uneven_model(1), SETTINGS, cache=SparseCache(ratio))
    engine.generate(PROMPT, observer=Looking(look))
    assert len(sets) == 3
    if 0 < ratio < 0.9:
        assert any(len(set(layers)) > 1 for layers in sets.values())
        # Left and right of the block, both.
        assert any(p < len(PROMPT) for p in sets[0][0])
        assert any(p >= len(PROMPT) + 6 for layer in sets[0] for p in layer)


def test_all_keys_kept_is_the_same_rows_with_nothing_hidden() -> None:
    assert tokens(SparseCache(1.0)) == tokens(TwiceWhole())
    assert tokens(SparseCache(0.3)) != tokens(TwiceWhole())


@pytest.mark.parametrize("name", SHIFTED)
def test_what_scores_the_first_mask_is_computed_and_seen(name: str) -> None:
    model, checked = model_of(name), list[int]()

    def look(view: StepView) -> None:
        at, visible_YBL = view.context.only, view.store.visible_YBL
        if at.step >= 2:
            assert visible_YBL is not None
            assert visible_YBL[:, 0, at.start - 1 : at.stop].all()
            checked.append(at.step)

    Engine(model, SETTINGS, cache=SparseCache(0.0)).generate(PROMPT, observer=Looking(look))
    assert checked


@pytest.mark.parametrize("window", [{"suffix_window": 3}, {"growing_canvas": True}], ids=str)
def test_beside_windows_of_the_canvas(window: dict[str, Any]) -> None:
    assert tokens(SparseCache(1.0), **window) == tokens(TwiceWhole(), **window)
    assert tokens(SparseCache(0.2), **window) != tokens(TwiceWhole(), **window)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("unmask", ["wino", "editing:threshold=0.3,edit=0.1", "klass"])
def test_beside_policies_that_take_back_edit_or_remember_each_is_alone(
    unmask: str, dtype: torch.dtype
) -> None:
    model = uneven_model(1)
    model = replace(model, network=model.network.copy(dtype))
    settings = BASE.replace(cache=SparseCache(0.4), unmask=unmask)
    prompts = [prompt_of(seed, 4 + seed) for seed in range(3)]
    alone = [Engine(model, settings, runner="eager").generate(p).tokens for p in prompts]
    together = Engine(model, settings, runner="graph").generate_batch(prompts)
    assert [one.tokens for one in together] == alone


def diagnosis(*sides: Side) -> Finding:
    a, b = sides
    found = diagnose(Case(a.trace, b.trace, ExperimentRunner(a, b, uneven_model(1)))).cause
    assert found is not None
    return found


def recorded(cache: CachePolicy, level: Literal["decisions", "full"], *, here: bool = True) -> Side:
    recorder, engine = Recorder(level), Engine(uneven_model(1), BASE, cache=cache)
    engine.generate(PROMPT, observer=recorder)
    return Side(recorder.trace, 0, engine if here else None)


@pytest.mark.parametrize("here", [True, False], ids=["B at hand", "its trace"])
def test_hidden_keys_are_named_where_the_same_rows_with_none_hidden_decide_alike(
    here: bool,
) -> None:
    sides = recorded(NoCache(), "decisions"), recorded(SparseCache(0.3), "decisions", here=here)
    found = diagnosis(*sides)
    assert (found.rule, found.proof) == ("visible-set", Proof.NECESSARY_AND_SUFFICIENT)
    assert "keys that cache=sparse hides change the decision" in str(found.what)
    assert "cache=sparse:keep_ratio=1.0" in str(found.remedy)


@pytest.mark.parametrize(("a", "b"), [(NoCache(), 1.0), (DualCache(), 0.3)], ids=repr)
def test_control_rows_of_another_age_are_not_taken_for_hidden_keys(
    a: CachePolicy, b: float
) -> None:
    sides = recorded(a, "decisions"), recorded(SparseCache(b), "decisions", here=False)
    assert diagnosis(*sides).rule == "stale-kv"


def test_stale_rows_are_not_blamed_alone_where_hiding_changes_the_decision_as_well() -> None:
    """With all outside the block hidden, no stale row is read at all."""
    prompt, model, sides = prompt_of(2, 2), uneven_model(1), list[Side]()
    short = SETTINGS.replace(gen_length=8, block_length=8)
    for cache in (NoCache(), SparseCache(0.0)):
        recorder, engine = Recorder("decisions"), Engine(model, short, cache=cache)
        engine.generate(prompt, observer=recorder)
        sides.append(Side(recorder.trace, 0, engine))
    found = diagnosis(*sides)
    assert "cache=sparse leaves stale K/V and hides keys" in str(found.what)
    assert "no key hidden, B decides neither as it does here nor as A" in str(found.evidence)


def test_other_keys_kept_than_the_rule_says_are_named_by_the_recorded_tables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = recorded(SparseCache(0.3), "full")

    def alone(score_M: Tensor, size: int) -> Tensor:
        return score_M

    with monkeypatch.context() as wrong:
        wrong.setattr(kept_keys, "pooled", alone)
        faulty = recorded(SparseCache(0.3), "full", here=False)
    found = diagnosis(right, faulty)
    assert (found.rule, found.proof) == ("visible-set", Proof.NECESSARY_AND_SUFFICIENT)
    assert "hides other keys than it should" in str(found.what)
    assert "B's visible keys: B's scores" in str(found.experiment)
    assert found.where.step == 2


def test_what_had_no_effect_is_said() -> None:
    def notes(cache: SparseCache, **changes: Any) -> str:
        settings = SETTINGS.replace(cache=cache, **changes)
        return " ".join(Engine(uneven_model(1), settings).generate(PROMPT).notes)

    assert "keep_ratio=1.0 hides no key" in notes(SparseCache(1.0))
    all_at_once = Threshold(0.0)
    assert "no block took more than 2 steps" in notes(SparseCache(), unmask=all_at_once)
    assert "hide" not in notes(SparseCache())


def test_the_same_with_no_key_hidden() -> None:
    assert SparseCache(0.25, 5).unhidden() == SparseCache(1.0, 5)
    assert SparseCache(1.0).unhidden() is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("sparse:-0.1", "sparse keep_ratio is -0.1, must be 0 to 1"),
        ("sparse:1.5", "sparse keep_ratio is 1.5"),
        ("sparse:nan", "sparse keep_ratio is nan"),
        ("sparse:kernel_size=2", "kernel_size is 2, must be an odd number"),
        ("sparse:kernel_size=-1", "kernel_size is -1, must be an odd number"),
        ("sparse:ties=random", "ties is 'random'"),
    ],
)
def test_values_out_of_their_range_are_refused(wrong: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings(cache=wrong)


@pytest.mark.parametrize("name", CAUSAL)
def test_attention_that_is_causal_over_blocks_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ConfigError, match=r"never changes there.*cache=dual is exact"):
        Engine(model_of(name), cache=SparseCache())


def test_a_skip_beside_it_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"states that it had when it saw other keys"):
        Engine(uneven_model(1), BASE, cache=SparseCache(), skip=CosineSkip(3))
