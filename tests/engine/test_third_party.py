"""Whatever a third party's policies choose: graphs, batches and masked rows change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from skipstone import ConfigError, Engine, Fixed, Settings
from skipstone.canvas import StepContext
from skipstone.engine import Result
from skipstone.rows import Rows
from tests.engine.third_party import RandomCache, RandomSkip, RandomUnmask
from tests.helpers.watching import prompt_of, uneven_model

PROPERTY = hypothesis_settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
MODELS = [uneven_model(seed) for seed in range(3)]
BASE = Settings(gen_length=12, block_length=6, eos_stop=False)

seeds, shares = st.integers(0, 1 << 16), st.sampled_from((0.0, 0.1, 0.4, 0.7, 1.0))
caches = st.builds(
    RandomCache, st.sets(st.integers(2, 4)).map(lambda s: tuple(sorted(s))), shares, seeds
)
plain_caches = st.builds(RandomCache, st.just(()), shares, seeds)
skips = st.builds(
    RandomSkip, st.sets(st.integers(1, 4)).map(lambda s: tuple(sorted(s))), shares, seeds
)
unmasks = st.builds(RandomUnmask, value=st.sampled_from((0.0, 0.2, 0.6)), seed=seeds)
any_settings = st.one_of(
    st.builds(replace, st.just(BASE), cache=caches, unmask=unmasks),
    st.builds(replace, st.just(BASE), cache=plain_caches, skip=skips, unmask=unmasks),
)
any_prompts = st.lists(st.integers(1, 14), min_size=1, max_size=4).map(
    lambda lengths: [prompt_of(i, n) for i, n in enumerate(lengths)]
)


def told(results: list[Result]) -> list[object]:
    return [(one.tokens, one.stats.steps, one.masks_left) for one in results]


@PROPERTY
@given(st.sampled_from(MODELS), any_settings, any_prompts)
def test_law_3_eager_is_graph(model: object, chosen: Settings, prompts: list[list[int]]) -> None:
    eager, graph = (
        Engine(model, chosen, runner=runner).generate_batch(prompts, batch_size=2)  # type: ignore[arg-type]
        for runner in ("eager", "graph")
    )
    assert told(graph) == told(eager)


@PROPERTY
@given(st.sampled_from(MODELS), any_settings, any_prompts)
def test_law_7_each_is_alone(model: object, chosen: Settings, prompts: list[list[int]]) -> None:
    engine = Engine(model, chosen, runner="graph")  # type: ignore[arg-type]
    together = engine.generate_batch(prompts, batch_size=3)
    assert told(together) == told([engine.generate(prompt) for prompt in prompts])


@PROPERTY
@given(st.sampled_from(MODELS), skips, plain_caches, any_prompts)
@torch.inference_mode()
def test_rows_that_are_computed_in_vain_change_nothing(
    model: object, skip: RandomSkip, cache: RandomCache, prompts: list[list[int]]
) -> None:
    engine = Engine(model, BASE, skip=skip, cache=cache, unmask=Fixed())  # type: ignore[arg-type]
    found = list[object]()
    for packs in (True, False):
        run = engine.start(prompts, batch_size=2)
        run.batch.runner.packs = packs
        found.append([(one.ids_G.tolist(), one.stats) for one in run.decode()])
    assert found[0] == found[1]


@pytest.mark.parametrize("runner", ["eager", "graph"])
@pytest.mark.parametrize("seed", range(3))
def test_a_skip_that_names_no_layers_decides_after_each(runner: str, seed: int) -> None:
    every, named = (
        Engine(MODELS[seed], BASE, skip=RandomSkip(layers, 0.5, seed), runner=runner)  # type: ignore[arg-type]
        for layers in ((), (1, 2, 3))
    )
    prompts = [prompt_of(n, 3 + n) for n in range(3)]
    found = every.generate_batch(prompts)
    assert told(found) == told(named.generate_batch(prompts))
    # Rows leave after each layer: that is not what one that decides once does.
    once = Engine(MODELS[seed], BASE, skip=RandomSkip((1,), 0.5, seed), runner=runner)  # type: ignore[arg-type]
    assert told(once.generate_batch(prompts)) != told(found)
    assert all(0 < one.stats.skip_share < 1 for one in found)


class Undeclared(RandomSkip):
    """Says that it decides after layer 3, and drops rows after layer 2."""

    def keep(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> Tensor | None:
        return torch.zeros(rows.num_rows, dtype=torch.bool) if layer == 2 else None


@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_rows_dropped_after_a_layer_that_is_not_named_are_refused(runner: str) -> None:
    engine = Engine(MODELS[0], BASE, skip=Undeclared((3,), 0.5, 1), unmask=Fixed(), runner=runner)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"after layer 2, and its decides_after is \(3,\)"):
        engine.generate(prompt_of(1, 5))


@pytest.mark.parametrize("layer", [0, 5])
def test_a_layer_that_the_model_has_not_is_refused(layer: int) -> None:
    with pytest.raises(ConfigError, match=f"decides after layer {layer}, must be one of"):
        Engine(MODELS[0], BASE, skip=RandomSkip((2, layer), 0.5, 1))
