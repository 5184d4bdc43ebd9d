"""Which rows d2Cache computes, and what it says and refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone import ConfigError, CosineSkip, Engine, Fixed, NoCache, Threshold
from skipstone.cache import D2Cache, pointed
from skipstone.cache.pointed import LayerWeights, gaps_filled, nucleus, rolled_out
from skipstone.density import certainty_density
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import diagnose
from skipstone.engine.observe import StepView
from skipstone.host_canvas import Status
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import ExperimentRunner, Side
from tests.helpers.watching import BASE, Looking, prompt_of, uneven_model
from tests.models.test_contracts import CONFIGS, model_of

PROMPT = prompt_of(1, 7)
LENGTH = len(PROMPT) + BASE.gen_length
SETTINGS = BASE.replace(unmask=Fixed())
SHIFTED = [n for n, c in CONFIGS.items() if c.reach.score_offset and not c.reach.block_size]
CAUSAL = [name for name, config in CONFIGS.items() if config.reach.block_size]
FEW = D2Cache(current_k=4, sigma=3.0, rollout_p=0.02, inflate_w=0)


def tokens(cache: Any, **changes: Any) -> tuple[int, ...]:
    return Engine(uneven_model(1), SETTINGS.replace(cache=cache, **changes)).generate(PROMPT).tokens


def certainty(decided: list[bool], sigma: float) -> list[float]:
    """Of each position, by a slow sum; all have the same factor."""
    new = len(decided)
    line = [True] * new + decided + decided[-1:] * new
    there = [at for at, known in enumerate(line) if known]
    return [
        sum(np.exp(-((at + new - j) ** 2) / (2 * sigma**2)) for j in there) for at in range(new)
    ]


def chosen(view: StepView) -> set[int]:
    """The four masks that a step must compute, by what was known before it."""
    at, confidence_BG = view.context.only, view.context.confidence_BG
    assert confidence_BG is not None
    status = view.before.status_BG[0]
    density = certainty([one != Status.MASK for one in status], FEW.sigma)
    masked = [n for n, one in enumerate(status) if one == Status.MASK]
    blocks = [range(n, n + 6) for n in range(at.block.start, BASE.gen_length, 6)]
    near = list[int]()
    for block in blocks:
        if len(near) < 4:
            near += [n for n in masked if n in block]
    near.sort(key=lambda n: (n >= at.block.stop, -float(confidence_BG[0, n]) * density[n], n))
    return {len(PROMPT) + n for n in near[:4]}


def test_attention_is_followed_as_the_product_of_all_layers_says() -> None:
    length, rng = 9, np.random.default_rng(0)
    rows = [np.arange(length), np.array([1, 4, 5]), np.array([0, 4, 8])]
    layers, product_KK = list[LayerWeights](), np.eye(length)
    for position_R in rows:
        weights_RK = rng.dirichlet(np.ones(length), len(position_R))
        padded_RK = np.pad(weights_RK, ((0, 0), (0, 3)))
        layers.append(LayerWeights(position_R, torch.tensor(padded_RK)))
        whole_KK = np.eye(length)
        whole_KK[position_R] = weights_RK
        product_KK = (whole_KK + np.eye(length)) / 2 @ product_KK
    assert rolled_out(layers, length).tolist() == pytest.approx(product_KK.sum(0).tolist())


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("sigma", [0.5, 3.0, 10.0])
def test_certainty_is_the_part_of_a_gaussian_over_decided_positions(
    last: bool, sigma: float
) -> None:
    decided = [True, False, False, True, False, False, last]
    wanted = certainty(decided, sigma)
    found = certainty_density(np.array(decided), sigma)
    assert (found / found[0]).tolist() == pytest.approx([w / wanted[0] for w in wanted], rel=1e-9)
    assert 0 < found.min() <= found.max() <= 1.0001


def test_a_nucleus_keeps_its_share_and_at_least_one() -> None:
    flow = np.array([5.0, 1, 1, 3, 1, 4, 1])
    assert nucleus(flow, 0.0, np.array([0])).tolist() == [5]
    assert nucleus(flow, 0.7, np.array([0])).tolist() == [3, 5]
    # Of equal ones the lowest positions.
    assert nucleus(flow, 0.8, np.array([0])).tolist() == [1, 3, 5]
    assert nucleus(flow, 1.0, np.array([0])).tolist() == [1, 2, 3, 4, 5, 6]
    assert nucleus(flow, 1.0, np.arange(7)).tolist() == []
    assert gaps_filled(np.array([0, 3, 8, 9]), 3).tolist() == [0, 1, 2, 3, 8, 9]
    assert gaps_filled(np.array([0, 3, 8, 9]), 0).tolist() == [0, 3, 8, 9]


@pytest.mark.parametrize("unmask", [Fixed(), Threshold(0.3)], ids=repr)
@pytest.mark.parametrize("name", ["own", *SHIFTED])
def test_masks_of_the_block_come_first_and_what_was_committed_again(name: str, unmask: Any) -> None:
    model = uneven_model(1) if name == "own" else model_of(name)
    before, ahead = list[int](), 0

    def look(view: StepView) -> None:
        nonlocal ahead
        at, rows = view.context.only, set(view.rows.position.tolist())
        masked = len(PROMPT) + np.flatnonzero(view.before.status_BG[0] == Status.MASK)
        if at.forward == 0:
            assert rows == set(range(LENGTH))
        else:
            committed = set(before).difference(masked.tolist())
            wanted = np.array(sorted(chosen(view) | committed))
            assert rows.issuperset(wanted.tolist())
            assert rows.issuperset(at.reach.row_of(wanted).tolist())
            # Beside them at least one, and not many.
            others = rows.difference(wanted.tolist(), at.reach.row_of(wanted).tolist())
            assert 1 <= len(others) <= 2
            ahead += bool(chosen(view) - set(range(at.start, at.stop)))
        before[:] = masked.tolist()

    settings = SETTINGS.replace(cache=FEW, unmask=unmask)
    Engine(model, settings).generate(PROMPT, observer=Looking(look))
    assert ahead


def test_confidence_right_of_the_block_is_what_one_block_would_have() -> None:
    seen = dict[int | None, torch.Tensor]()

    def note(length: int | None) -> Any:
        def look(view: StepView) -> None:
            if view.context.only.forward == 1 and view.context.confidence_BG is not None:
                seen[length] = view.context.confidence_BG[0].clone()

        return look

    # Rows of the second step are named by what the first gave.
    for length in (6, BASE.gen_length):
        settings = SETTINGS.replace(cache=FEW, block_length=length)
        Engine(uneven_model(1), settings).generate(PROMPT, observer=Looking(note(length)))
    assert torch.isfinite(seen[6]).all()
    assert seen[6][6:].tolist() == pytest.approx(seen[BASE.gen_length][6:].tolist(), rel=1e-5)


def test_with_all_attention_it_is_no_cache_to_the_bit() -> None:
    assert tokens(D2Cache(rollout_p=1.0)) == tokens(NoCache())
    assert tokens(FEW) != tokens(NoCache())


@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_each_gives_alone_what_it_gives_beside_others(runner: Literal["eager", "graph"]) -> None:
    model, given = uneven_model(1), BASE.replace(unmask=Threshold(0.4))
    caches = [FEW, NoCache(), "elastic:gamma=0.97", D2Cache(3, published=True), "dual"] * 2
    prompts = [prompt_of(n, 3 + 2 * n) for n in range(len(caches))]
    alone = [
        Engine(model, given, cache=cache).generate(prompt).tokens
        for cache, prompt in zip(caches, prompts, strict=True)
    ]
    engine = Engine(model, given, runner=runner, slots=3)
    handles = [engine.submit(p, cache=c) for c, p in zip(caches, prompts, strict=True)]
    assert [handle.result().tokens for handle in handles] == alone


@pytest.mark.parametrize("changes", [{"suffix_window": 3}, {"growing_canvas": True}], ids=str)
@pytest.mark.parametrize("unmask", ["wino", "editing:threshold=0.3,edit=0.1", "klass"])
def test_beside_windows_and_policies_that_take_back(unmask: str, changes: dict[str, Any]) -> None:
    same = {"unmask": unmask, **changes}
    assert tokens(D2Cache(rollout_p=1.0), **same) == tokens(NoCache(), **same)
    assert len(tokens(FEW, **same)) == BASE.gen_length


@pytest.mark.parametrize("name", CAUSAL)
def test_a_model_causal_over_blocks_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cache=dual is exact"):
        Engine(model_of(name), SETTINGS, cache=D2Cache())


def test_a_skip_beside_it_is_refused_and_why() -> None:
    with pytest.raises(ConfigError, match="follows from what this step gives"):
        Engine(uneven_model(1), SETTINGS, cache=D2Cache(), skip=CosineSkip(3))


@pytest.mark.parametrize(
    "wrong", [{"current_k": 0}, {"sigma": 0.0}, {"rollout_p": 1.5}, {"inflate_w": -1}], ids=str
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"d2cache {next(iter(wrong))} is"):
        D2Cache(**wrong)


def test_the_remedy_keeps_rows_to_which_half_as_much_flows() -> None:
    assert D2Cache(rollout_p=0.1).fresher() == D2Cache(rollout_p=0.55)
    assert D2Cache(rollout_p=1.0).fresher() is None
    assert D2Cache(rollout_p=1.0).idle(())
    assert not D2Cache().idle(())


def test_rows_chosen_by_wrong_values_have_a_remedy_that_speaks_of_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Attention is followed through the first layer alone."""
    model, prompt, sides = uneven_model(1), prompt_of(1, 7), list[Side]()

    def of_the_first(layers: Sequence[LayerWeights], length: int) -> Tensor:
        return rolled_out(layers[:1], length)

    for wrong in (False, True):
        with monkeypatch.context() as patch:
            if wrong:
                patch.setattr(pointed, "rolled_out", of_the_first)
            recorder, engine = Recorder("full"), Engine(model, BASE, cache=D2Cache(3))
            engine.generate(prompt, observer=recorder)
        sides.append(Side(recorder.trace, 0, None if wrong else engine))
    a, b = sides
    found = diagnose(Case(a.trace, b.trace, ExperimentRunner(a, b, model))).cause
    assert found is not None
    assert "other rows are recomputed" in str(found.what)
    assert "see by what the cache policy chooses rows" in str(found.remedy)
