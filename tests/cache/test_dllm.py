"""Which rows dLLM-Cache computes in each layer, held against its rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone import ConfigError, Engine, Fixed, Model, NoCache, Settings
from skipstone.cache import DllmCache
from skipstone.diagnosis.finding import Proof
from skipstone.engine.forward.choosing import Choosing, ChosenRows
from skipstone.engine.observe import StepView
from skipstone.memory.store import KVStore
from skipstone.rows import Rows
from tests.helpers.diagnosing import runs_under
from tests.helpers.watching import BASE, Looking, places, prompt_of, uneven_model
from tests.models.test_contracts import CONFIGS, model_of

PROMPT = prompt_of(1, 7)
NEW = BASE.gen_length
LENGTH = len(PROMPT) + NEW
PROMPT_ROWS, ALL = set(range(7)), set(range(LENGTH))
SHIFTED = [n for n, c in CONFIGS.items() if c.reach.score_offset and not c.reach.block_size]
CAUSAL = [name for name, config in CONFIGS.items() if config.reach.block_size]

Computed = list[dict[int, set[int]]]
"""Of each forward, by layer: the positions that it computes."""


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Computed]:
    """Decodes, and tells what each layer has computed."""
    seen: Computed = []
    choose = Choosing.choose

    def noting(self: Choosing, layer: int, rows: Rows, ask: Any) -> ChosenRows:
        chosen = choose(self, layer, rows, ask)
        if layer == 2:
            seen.append({})
        seen[-1][layer] = set(chosen.rows.position.tolist())
        return chosen

    def run(cache: DllmCache, model: Model | None = None, **changes: Any) -> Computed:
        seen.clear()
        settings = BASE.replace(cache=cache, unmask=Fixed(), **changes)
        Engine(model or uneven_model(1), settings).generate(PROMPT)
        return list(seen)

    monkeypatch.setattr(Choosing, "choose", noting)
    return run


@pytest.mark.parametrize(("prompt", "response"), [(4, 3), (3, 2), (0, 2), (5, 0), (1, 1), (99, 1)])
def test_prompt_and_response_are_computed_at_their_intervals(
    computed: Callable[..., Computed], prompt: int, response: int
) -> None:
    found = computed(DllmCache(prompt, response, ratio=0.25))
    assert len(found) == NEW
    for forward, layers in enumerate(found):
        due = (forward % every == 0 if every else not forward for every in (prompt, response))
        whole_prompt, whole_response = due
        for positions in layers.values():
            assert positions & PROMPT_ROWS == (PROMPT_ROWS if whole_prompt else set())
            share = NEW if whole_response else int(NEW * 0.25)
            assert len(positions - PROMPT_ROWS) == share
        assert set(layers) == {2, 3, 4}


def test_each_layer_chooses_anew(computed: Callable[..., Computed]) -> None:
    found = computed(DllmCache(0, 0, 0.3), uneven_model(2))
    assert any(layers[2] != layers[4] for layers in found)
    assert any(one[3] != other[3] for one, other in pairwise(found[1:]))


@pytest.mark.parametrize("dtype", ["float32", "model"])
def test_the_rows_whose_values_have_moved_most_are_computed(
    monkeypatch: pytest.MonkeyPatch, computed: Callable[..., Computed], dtype: str
) -> None:
    moved = list[tuple[np.ndarray, np.ndarray]]()
    renew = KVStore.renew_values

    def noting(self: KVStore, layer: int, rows: Rows, new_NUE: Tensor) -> Tensor:
        old_NUE = renew(self, layer, rows, new_NUE)
        old_NW, new_NW = (x.flatten(1).double() for x in (old_NUE, new_NUE))
        moved.append((rows.position, torch.cosine_similarity(old_NW, new_NW).numpy()))
        assert torch.equal(self.values[layer][rows.cell_N], new_NUE)
        return old_NUE

    monkeypatch.setattr(KVStore, "renew_values", noting)
    found = computed(DllmCache(5, 4, 0.4, dtype))  # type: ignore[arg-type]
    layers = [positions for at, step in enumerate(found) if at % 4 for positions in step.values()]
    assert len(layers) == len(moved) > 30
    for positions, (response, similarity) in zip(layers, moved, strict=True):
        assert set(response.tolist()) == ALL - PROMPT_ROWS
        chosen = np.isin(response, list(positions))
        assert chosen.sum() == int(NEW * 0.4)
        assert similarity[chosen].max() <= similarity[~chosen].min() + 1e-6


def test_without_a_share_no_value_is_renewed(
    monkeypatch: pytest.MonkeyPatch, computed: Callable[..., Computed]
) -> None:
    monkeypatch.delattr(KVStore, "renew_values")
    found = computed(DllmCache(3, 2, 0.0))
    assert found[0] == dict.fromkeys((2, 3, 4), ALL)
    assert found[1] == found[5] == {layer: set() for layer in (2, 3, 4)}


@pytest.mark.parametrize("name", SHIFTED)
def test_what_scores_the_first_new_token_is_response(
    computed: Callable[..., Computed], name: str
) -> None:
    model = model_of(name)
    layers = range(2, model.config.num_layers + 1)
    found = computed(DllmCache(0, 1), model)
    assert found[1] == {layer: ALL - set(range(6)) for layer in layers}


@pytest.mark.parametrize("window", [{"suffix_window": 2}, {"growing_canvas": True}], ids=str)
def test_what_comes_into_sight_is_computed(
    computed: Callable[..., Computed], window: dict[str, object]
) -> None:
    found = computed(DllmCache(0, 0, 0.0), **window)
    seen = set[int]()
    for layers in found:
        seen |= layers[2]
        assert layers[2] == layers[3] == layers[4]
    assert seen == ALL
    assert sum(len(layers[2]) for layers in found) == LENGTH


def test_all_rows_enter_and_those_that_all_layers_computed_are_finished() -> None:
    def look(view: StepView) -> None:
        at = view.context.only
        assert {p for _, p in places(view.rows)} == ALL
        finished = {p for _, p in places(view.finished)}
        if at.forward % 3 == 0:
            assert finished >= ALL - PROMPT_ROWS
        elif at.forward % 6:
            assert finished < ALL - PROMPT_ROWS
        assert view.rows.refresh == (at.forward % 6 == 0)

    settings = BASE.replace(cache=DllmCache(6, 3), unmask=Fixed())
    Engine(uneven_model(1), settings).generate(PROMPT, observer=Looking(look))


def test_computing_everything_in_each_step_is_the_exact_run() -> None:
    exact = Engine(uneven_model(1), BASE, cache=NoCache()).generate(PROMPT).tokens
    assert Engine(uneven_model(1), BASE, cache=DllmCache(1, 1)).generate(PROMPT).tokens == exact
    loose = Engine(uneven_model(1), BASE, cache=DllmCache(0, 0, 0.1)).generate(PROMPT).tokens
    assert loose != exact


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("unmask", ["wino", "editing:threshold=0.3,edit=0.1", "klass"])
def test_beside_policies_that_take_back_edit_or_remember_each_is_alone(
    unmask: str, dtype: torch.dtype
) -> None:
    model = uneven_model(1)
    model = replace(model, network=model.network.copy(dtype))
    settings = BASE.replace(cache=DllmCache(6, 3, 0.4, "model"), unmask=unmask)
    prompts = [prompt_of(seed, 4 + seed) for seed in range(3)]
    alone = [Engine(model, settings, runner="eager").generate(p).tokens for p in prompts]
    together = Engine(model, settings, runner="graph").generate_batch(prompts)
    assert [one.tokens for one in together] == alone


@pytest.mark.parametrize("level", ["decisions", "full"])
def test_a_diagnosis_names_the_cache_and_says_how_old_rows_are(
    level: Literal["decisions", "full"],
) -> None:
    # Twice the same finds nothing: rows that layers leave out are no skips.
    caches = (NoCache(), DllmCache(0, 0, 0.1), DllmCache(0, 0, 0.1))
    found = runs_under(uneven_model(1), caches, PROMPT, level)
    cause = found(0, 1).cause
    assert cause is not None
    assert (cause.rule, cause.proof) == ("stale-kv", Proof.NECESSARY_AND_SUFFICIENT)
    assert "rows take from some layers what these added to them earlier" in str(cause.evidence)
    assert found(1, 2).findings == ()


def test_what_had_no_effect_is_said() -> None:
    def notes(cache: DllmCache) -> str:
        settings = BASE.replace(cache=cache, unmask=Fixed())
        return " ".join(Engine(uneven_model(1), settings).generate(PROMPT).notes)

    assert "prompt_every=50 never came due in 18 forwards" in notes(DllmCache())
    assert "response_every=18 never came due" in notes(DllmCache(4, 18))
    assert "ratio=0.25 has no effect: response_every=1" in notes(DllmCache(4, 1))
    assert "saved nothing" in notes(DllmCache(1, 1, 0.0))
    assert not notes(DllmCache(9, 3))


def test_a_fresher_cache_refreshes_more_often() -> None:
    assert DllmCache().fresher() == DllmCache(25, 3)
    assert DllmCache(0, 0, 0.5).fresher() == DllmCache(50, 7, 0.5)
    assert DllmCache(1, 1).fresher() is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("dllm:-1", "dllm prompt_every is -1"),
        ("dllm:response_every=-2", "dllm response_every is -2"),
        ("dllm:ratio=1.5", "dllm ratio is 1.5, must be 0 to 1"),
        ("dllm:ratio=nan", "dllm ratio is nan"),
        ("dllm:similarity_dtype=bf16", "similarity_dtype is 'bf16'"),
    ],
)
def test_values_out_of_their_range_are_refused(wrong: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings(cache=wrong)


@pytest.mark.parametrize("name", CAUSAL)
def test_attention_that_is_causal_over_blocks_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ConfigError, match=r"never changes there.*cache=dual is exact"):
        Engine(model_of(name), cache=DllmCache())
