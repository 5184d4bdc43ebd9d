"""What published code gives on two tiny checkpoints: logits, tokens, and no more forwards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from skipstone import DualCache, Engine, Fixed, Model, NoCache, PrefixCache, Threshold, load
from skipstone.blocks import Block
from skipstone.cache import CachePolicy
from skipstone.canvas import Canvas, StepContext
from skipstone.engine import Result
from skipstone.engine.forward.eager import EagerLayers
from skipstone.engine.forward.runner import Pass, Runner
from skipstone.engine.observe import Taps
from skipstone.memory.store import KVStore
from skipstone.rows import Rows
from tests.conftest import context_at

pytestmark = pytest.mark.golden

NUM_CASES = {"mha": 49, "gqa": 46}
CASES = [(group, index) for group, count in NUM_CASES.items() for index in range(count)]
CACHES: dict[str, CachePolicy] = {"none": NoCache(), "prefix": PrefixCache(), "dual": DualCache()}
TOLERANCE = 1e-4
PROMPT, BLOCK = 24, Block(0, 0, 8)


class Expected(TypedDict):
    tokens: list[int]
    nfe: int


class Case(TypedDict):
    prompt: list[int]
    gen_length: int
    block_length: int
    steps: int
    threshold: float | None
    expect: dict[str, Expected]


@dataclass(frozen=True)
class Recorded:
    models: dict[str, Model]
    cases: dict[str, list[Case]]
    expected: dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def recorded(golden_dir: Path) -> Recorded:
    return Recorded(
        models={g: load(golden_dir / g, device="cpu", dtype="float32") for g in NUM_CASES},
        cases={g: json.loads((golden_dir / g / "cases.json").read_text()) for g in NUM_CASES},
        expected={g: load_file(golden_dir / g / "expected.safetensors") for g in NUM_CASES},
    )


def decode(model: Model, case: Case, cache: CachePolicy) -> Result:
    engine = Engine(
        model,
        cache=cache,
        gen_length=case["gen_length"],
        block_length=case["block_length"],
        eos_stop=False,
    )
    threshold = case["threshold"]
    if threshold is None:
        engine = Engine(model, engine.settings, unmask=Fixed(), steps=case["steps"])
    else:
        engine = Engine(model, engine.settings, unmask=Threshold(threshold))
    return engine.generate(case["prompt"])


def test_every_recorded_case_is_used(recorded: Recorded) -> None:
    assert {group: len(cases) for group, cases in recorded.cases.items()} == NUM_CASES


@pytest.mark.parametrize(("group", "index"), CASES)
def test_tokens_are_the_recorded_ones_in_no_more_forwards(
    recorded: Recorded, group: str, index: int
) -> None:
    case = recorded.cases[group][index]
    for name, cache in CACHES.items():
        result = decode(recorded.models[group], case, cache)
        assert list(result.tokens) == case["expect"][name]["tokens"], name
        assert result.stats.num_forwards <= case["expect"][name]["nfe"], name


def test_recorded_tokens_tell_the_caches_apart(recorded: Recorded) -> None:
    cases = [case["expect"] for group in recorded.cases.values() for case in group]
    for one, other in (("none", "prefix"), ("none", "dual"), ("prefix", "dual")):
        apart = [case[one]["tokens"] != case[other]["tokens"] for case in cases]
        assert sum(apart) > len(cases) // 2, (one, other)


@dataclass(frozen=True)
class NeverRefreshed(CachePolicy):
    """A wrong cache: only the very first step sees the whole canvas."""

    def rows(self, context: StepContext) -> Rows:
        if context.only.forward == 0:
            return context.all_rows(refresh=True)
        return context.block_rows()


@pytest.mark.parametrize("group", list(NUM_CASES))
def test_a_cache_that_never_refreshes_is_caught(recorded: Recorded, group: str) -> None:
    cases = [case for case in recorded.cases[group] if case["block_length"] == 8][:6]
    assert len(cases) == 6
    caught = [
        list(decode(recorded.models[group], case, NeverRefreshed()).tokens)
        != case["expect"]["dual"]["tokens"]
        for case in cases
    ]
    assert all(caught)


class Forwards:
    """A runner with its store on the recorded canvas of 40 ids, positions 24..31 being a block."""

    def __init__(self, model: Model, ids_BL: Tensor) -> None:
        self.model = model
        config, device = model.config, model.network.device
        gen_length = ids_BL.shape[1] - PROMPT
        self.canvas = Canvas.start(
            [ids_BL[0, :PROMPT].tolist()], gen_length, config.mask_id, device
        )
        self.canvas.ids_BL.copy_(ids_BL)
        length, dtype = ids_BL.shape[1], model.network.dtype
        store = KVStore(config, length, dtype, device)
        self.runner = Runner(model.network, None, EagerLayers(model.network, store))
        self.context = context_at(self.canvas, BLOCK, 0, BLOCK.length)

    def forward(self, rows: Rows) -> Pass:
        return self.runner.forward(rows, self.context, fresh=(0,), taps=Taps(states=(1,)))

    def logits(self, done: Pass) -> Tensor:
        return self.model.network.head(self.model.network.final_norm(done.x_ND))


def worst(found: Tensor, expected: Tensor) -> float:
    assert found.dtype == expected.dtype == torch.float32
    return float((found - expected[0]).abs().max())


@pytest.mark.parametrize("group", list(NUM_CASES))
@torch.inference_mode()
def test_logits_and_states_are_the_recorded_ones(recorded: Recorded, group: str) -> None:
    expected, model = recorded.expected[group], recorded.models[group]
    forwards = Forwards(model, expected["full_ids"])
    full = forwards.forward(forwards.context.all_rows())
    assert worst(full.states[1].x_ND, expected["hidden_1"]) < TOLERANCE
    assert worst(model.network.final_norm(full.x_ND), expected["hidden_last_normed"]) < TOLERANCE
    assert worst(forwards.logits(full), expected["full_logits"]) < TOLERANCE

    forwards.canvas.ids_BL[:, PROMPT : PROMPT + BLOCK.length] = expected["block_ids"]
    cached = forwards.forward(forwards.context.block_rows())
    assert worst(forwards.logits(cached), expected["block_logits"]) < TOLERANCE


@pytest.mark.parametrize("group", list(NUM_CASES))
@torch.inference_mode()
def test_block_logits_depend_on_the_kept_keys_and_values(recorded: Recorded, group: str) -> None:
    expected = recorded.expected[group]
    ids_BL = expected["full_ids"].clone()
    ids_BL[:, PROMPT : PROMPT + BLOCK.length] = expected["block_ids"]
    forwards = Forwards(recorded.models[group], ids_BL)
    recomputed = forwards.logits(forwards.forward(forwards.context.all_rows()))
    block = recomputed[PROMPT : PROMPT + BLOCK.length]
    assert worst(block, expected["block_logits"]) > 100 * TOLERANCE
