"""What the authors' code commits in every step, on tiny checkpoints: recorded truth beside ours."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TypedDict, cast

import pytest

from skipstone import DualCache, Engine, Model, NoCache, PrefixCache, load
from skipstone.tracing import Recorder
from skipstone.unmask import Entropy, EntropyBound, Frechet, Margin, UnmaskPolicy
from skipstone.unmask.entropy_bound import Order

pytestmark = pytest.mark.golden

CHECKPOINTS = ("mha", "gqa", "deep")
CACHES = {"frechet_prefix": PrefixCache(), "frechet_dual": DualCache()}
ORDERS: dict[str, Order] = {
    "maskgit_plus": "confidence",
    "topk_margin": "margin",
    "entropy": "entropy",
}


class Params(TypedDict, total=False):
    frechet_margin: float
    gamma: float
    alg: str
    num_transfer_tokens: int
    threshold: float


class Case(TypedDict):
    prompt: list[int]
    gen_length: int
    block_length: int
    params: Params
    tokens: list[int]
    forwards: int
    steps: list[list[tuple[int, int]]]


def policy_of(folder: str, params: Params) -> UnmaskPolicy:
    """Our policy by the published names of its settings."""
    if folder.startswith("frechet"):
        return Frechet(params["frechet_margin"])
    each, order = params.get("num_transfer_tokens", 1), ORDERS[params["alg"]]
    if folder == "eb":
        return EntropyBound(params["gamma"], order, "last", each)
    return Margin(each, params.get("threshold")) if order == "margin" else Entropy(each)


@cache
def model_of(checkpoint: Path) -> Model:
    return load(checkpoint, device="cpu", dtype="float32")


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize(
    "folder", ["orders", "eb", "frechet_none", "frechet_prefix", "frechet_dual"]
)
def test_tokens_forwards_and_the_commits_of_every_step_are_the_recorded_ones(
    golden_dir: Path, folder: str, checkpoint: str
) -> None:
    path = golden_dir / "policies" / folder / f"{checkpoint}.json"
    if not path.exists():
        pytest.skip(f"{path.name} of {folder} is not recorded here")
    cases = cast("list[Case]", json.loads(path.read_text())["cases"])
    assert len(cases) > 15
    for case in cases:
        recorder = Recorder()
        result = Engine(
            model_of(golden_dir / checkpoint),
            cache=CACHES.get(folder, NoCache()),
            unmask=policy_of(folder, case["params"]),
            gen_length=case["gen_length"],
            block_length=case["block_length"],
            eos_stop=False,
        ).generate(case["prompt"], observer=recorder)
        start, found = len(case["prompt"]), list[list[tuple[int, int]]]()
        for step in recorder.records[0].steps:
            chosen = [c for c in step.candidates if c.committed]
            found.append([(c.position - start, c.token) for c in chosen])
        assert found == [sorted((p, t) for p, t in step) for step in case["steps"]], case["params"]
        assert list(result.tokens) == case["tokens"]
        assert result.stats.num_forwards == case["forwards"]


def test_the_bound_of_the_paper_is_not_that_of_the_published_code(golden_dir: Path) -> None:
    path = golden_dir / "policies" / "eb" / "deep.json"
    if not path.exists():
        pytest.skip("the entropy bound is not recorded here")
    apart = 0
    for case in cast("list[Case]", json.loads(path.read_text())["cases"]):
        tokens = [
            Engine(
                model_of(golden_dir / "deep"),
                cache=NoCache(),
                unmask=EntropyBound(case["params"]["gamma"], free=free),
                gen_length=case["gen_length"],
                block_length=case["block_length"],
                eos_stop=False,
            )
            .generate(case["prompt"])
            .tokens
            for free in ("largest", "last")
        ]
        apart += tokens[0] != tokens[1]
    assert apart
