"""What requests have in common is computed once, and each gives what it gives alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from skipstone import ConfigError, Engine, Model, Result, Settings
from skipstone.engine.forward.common import Histories
from skipstone.leaderboard.protocol import protocol
from skipstone.rows import Rows
from skipstone.testing.tiny import tiny_model

BASE = Settings(gen_length=24, block_length=8, cache="none", unmask="fixed", skip="none")
PROMPT = [3, 1, 4, 1, 5]
CACHES = ["none", "dllm", "dyllm", "elastic", "sparse", "d2cache"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model(num_layers=8)


@pytest.fixture(scope="module")
def every(model: Model) -> list[Settings]:
    """All policies at all values that a leaderboard has, and others beside them."""
    found = [BASE, *(setting.settings for setting in protocol(model, BASE).settings)]
    return sorted(found, key=lambda s: s.as_text()["skip"])


def work(result: Result) -> list[tuple[int, int, int]]:
    return [(s.rows, s.shadow_rows, s.skipped_row_layers) for s in result.stats.steps]


def check_alone(model: Model, settings: Sequence[Settings], prompts: Sequence[list[int]]) -> None:
    together = Engine(model).generate_batch(list(prompts), settings=settings)
    for prompt, own, found in zip(prompts, settings, together, strict=True):
        alone = Engine(model, own).generate(prompt)
        assert found.tokens == alone.tokens, own
        assert work(found) == work(alone), own
        assert found.settings == alone.settings


def test_all_settings_of_a_prompt_in_one_batch_give_what_each_gives_alone(
    model: Model, every: list[Settings]
) -> None:
    assert len({s.as_text()["unmask"] for s in every}) > 20
    assert len({s.as_text()["cache"] for s in every}) > 6
    check_alone(model, every, [PROMPT] * len(every))


def test_so_do_two_prompts_by_turns_and_slots_that_are_given_on(
    model: Model, every: list[Settings]
) -> None:
    some = [s for s in every if not s.cache.needs][::3]
    prompts = [PROMPT, [9, 2, 6]] * len(some)
    check_alone(model, [s for s in some for _ in range(2)], prompts)
    few = Engine(model).generate_batch([PROMPT] * len(some), settings=some, batch_size=5)
    for own, found in zip(some, few, strict=True):
        assert found.tokens == Engine(model, own).generate(PROMPT).tokens


def test_the_same_settings_of_two_requests_are_computed_once(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = list[int]()
    layer = model.network.layer

    def counted(index: int, x_ND: torch.Tensor, *more: object) -> torch.Tensor:
        computed.append(len(x_ND))
        return layer(index, x_ND, *more)  # pyrefly: ignore[bad-argument-type]

    monkeypatch.setattr(model.network, "layer", counted)

    def rows(prompts: list[list[int]], **changes: str) -> int:
        computed.clear()
        Engine(model, BASE.replace(**changes)).generate_batch(prompts)  # pyrefly: ignore[bad-argument-type]
        return sum(computed)

    for cache in ("none", "dual", "prefix"):
        assert rows([PROMPT] * 3, cache=cache) == rows([PROMPT], cache=cache)
        # Control: other prompts have nothing in common.
        assert rows([PROMPT, PROMPT[::-1]], cache=cache) == 2 * rows([PROMPT], cache=cache)


@pytest.mark.parametrize("caches", [CACHES, CACHES[::-1]], ids=["none first", "none last"])
def test_a_forward_in_which_no_cache_policy_has_a_say_is_computed_once_for_all(
    model: Model, monkeypatch: pytest.MonkeyPatch, caches: list[str]
) -> None:
    settings = [BASE.replace(cache=cache) for cache in caches]
    prompts = [PROMPT] * len(caches)
    check_alone(model, settings, prompts)
    entered, embed = list[int](), model.network.embed

    def counted(id_N: torch.Tensor) -> torch.Tensor:
        entered.append(len(id_N))
        return embed(id_N)

    monkeypatch.setattr(model.network, "embed", counted)
    Engine(model).generate_batch(prompts, settings=settings)
    length = len(PROMPT) + BASE.gen_length
    assert entered[0] == length
    # Control: where they have a say, each computes its own.
    assert max(entered) > 2 * length


def rows_of(*spans: tuple[int, int, int], length: int = 6) -> Rows:
    bases = [8 * slot for slot, _, _ in spans]
    return Rows.spans(spans, CPU, lengths=[length] * len(spans), bases=bases)


def test_who_computes_for_whom() -> None:
    histories, ids_BL = Histories(), np.zeros((3, 8), np.int64)
    histories.forget(range(3))
    whole = rows_of((0, 0, 6), (1, 0, 6), (2, 0, 6))
    part = rows_of((0, 3, 6), (1, 3, 6), (2, 3, 6))
    assert histories.leaders(whole, ids_BL) == {0: 0, 1: 0, 2: 0}
    # What was there before is another one's: only who computes all of it has it in common.
    assert histories.leaders(part, ids_BL) == {0: 0, 1: 1, 2: 2}
    histories.computed(whole, ids_BL)
    assert histories.leaders(part, ids_BL) == {0: 0, 1: 0, 2: 0}
    ids_BL[1, 4] = 7
    assert histories.leaders(part, ids_BL) == {0: 0, 1: 1, 2: 0}
    histories.computed(part, ids_BL)
    # The same ids again, over other keys and values.
    ids_BL[1, 4] = 0
    assert histories.leaders(part, ids_BL) == {0: 0, 1: 1, 2: 0}
    assert histories.leaders(whole, ids_BL) == {0: 0, 1: 0, 2: 0}
    histories.forget([2])
    assert histories.leaders(part, ids_BL) == {0: 0, 1: 1, 2: 2}
    # Who has a say in a forward computes its own, until all of it is computed without one.
    histories.computed(whole, ids_BL, judging={0})
    assert histories.leaders(part, ids_BL) == {0: 0, 1: 1, 2: 1}
    assert histories.leaders(whole, ids_BL, judging={0}) == {0: 0, 1: 1, 2: 1}
    assert histories.leaders(whole, ids_BL) == {0: 0, 1: 0, 2: 0}
    # A row that sees less far computes something else.
    short = Rows.join(rows_of((0, 0, 5), length=5), rows_of((1, 0, 5)))
    assert histories.leaders(short, ids_BL) == {0: 0, 1: 1}


@pytest.mark.parametrize("given", [[BASE], "ab", [BASE, "dual"], 7])
def test_settings_of_each_prompt_are_as_many_and_settings(model: Model, given: object) -> None:
    with pytest.raises(ConfigError, match="settings"):
        Engine(model).generate_batch([PROMPT] * 2, settings=given)  # pyrefly: ignore[bad-argument-type]
