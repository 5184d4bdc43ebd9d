"""The engine against a slow, independent decoder: same tokens, skipped rows and forwards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Literal

import pytest

from skipstone import CosineSkip, DualCache, Engine, Fixed, Model, NoCache, NoSkip, PrefixCache
from skipstone.cache import CachePolicy
from skipstone.engine import Result, Settings
from skipstone.engine.settings import Budget
from skipstone.skip import SkipPolicy
from skipstone.skip.policies import Reference
from skipstone.testing.tiny import MASK
from skipstone.unmask import Factor, Threshold, UnmaskPolicy
from tests.helpers.watching import Watcher, ending_model, network_of, prompt_of, uneven_model, watch
from tests.laws.cosine_skip import Done, Net, Oracle, Rules, SkipRule

Cache = Literal["none", "prefix", "dual"]
CASES = 28
UNMASKS: tuple[Literal["fixed", "threshold", "factor"], ...] = ("fixed", "threshold", "factor")
BUDGETS: tuple[Budget, ...] = ("finish", "finish", "stop")
REFERENCES: tuple[Reference, ...] = ("last_computed", "previous_step")


@dataclass(frozen=True)
class Case:
    model: Model
    prompt: list[int]
    rules: Rules


def draw(seed: int, cache: Cache) -> Case:
    """A random model, prompt and setting; the same for the same seed."""
    rng = Random(f"{cache} {seed}")
    layers = rng.choice([3, 4, 5])
    if rng.random() < 0.25:
        model, layers = ending_model(rng.randrange(50)), 4
    else:
        model = uneven_model(
            rng.randrange(50), num_layers=layers, num_kv_heads=rng.choice([1, 2, 4])
        )
    prompt = prompt_of(rng.randrange(1000), rng.randint(1, 9))
    # A canvas of masks alone has states that are equal but for rounding: no truth to agree on.
    if rng.random() < 0.2 and len(prompt) > 1:
        prompt[rng.randrange(len(prompt))] = MASK
    gen_length = rng.randint(5, 16)
    block_length = rng.randint(3, 9)
    unmask = rng.choice(UNMASKS)
    value = {"fixed": 0.0, "threshold": rng.choice([0.3, 0.5, 0.9]), "factor": rng.uniform(0.5, 2)}
    budget = rng.choice(BUDGETS)
    least = -(-gen_length // block_length)
    free = unmask == "fixed" or budget == "stop"
    steps = rng.randint(least, gen_length) if free and rng.random() < 0.7 else None
    skip = SkipRule(
        layer_k=rng.randint(2, layers),
        threshold=rng.choice([0.5, 0.8, 0.9, 0.95, 0.99]),
        outlier=rng.choice([-1.0, 0.5, 0.9]),
        reference=rng.choice(REFERENCES),
        keep_committed=rng.random() < 0.7,
        keep_neighbours=rng.random() < 0.7,
    )
    rules = Rules(
        gen_length=gen_length,
        block_length=block_length,
        cache=cache,
        refresh_every=0 if cache == "none" else rng.choice([0, 0, 3]),
        unmask=unmask,
        value=value[unmask],
        steps=steps,
        skip=skip,
        eos_stop=rng.random() < 0.5,
        budget=budget,
    )
    return Case(model, prompt, rules)


def settings_of(rules: Rules) -> Settings:
    caches: dict[str, CachePolicy] = {
        "none": NoCache(),
        "prefix": PrefixCache(rules.refresh_every),
        "dual": DualCache(rules.refresh_every),
    }
    unmask: UnmaskPolicy = Fixed()
    if rules.unmask == "threshold":
        unmask = Threshold(rules.value)
    if rules.unmask == "factor":
        unmask = Factor(rules.value)
    skip: SkipPolicy = NoSkip()
    if rules.skip is not None:
        skip = CosineSkip(
            skip_layer_k=rules.skip.layer_k,
            skip_threshold=rules.skip.threshold,
            skip_outlier=rules.skip.outlier,
            similarity_dtype="float64",
            reference=rules.skip.reference,
            keep_committed=rules.skip.keep_committed,
            keep_neighbours=rules.skip.keep_neighbours,
        )
    return Settings(
        cache=caches[rules.cache],
        unmask=unmask,
        skip=skip,
        gen_length=rules.gen_length,
        block_length=rules.block_length,
        steps=rules.steps,
        eos_stop=rules.eos_stop,
        budget=rules.budget,
    )


def told(watcher: Watcher) -> list[Done]:
    """What an observer saw of a single prompt, in the words of the oracle."""
    return [
        Done(
            block=seen.block,
            step=seen.step,
            recovery=seen.recovery,
            skipped=frozenset(position for _, position in seen.skipped),
            committed=tuple(position for _, position in seen.committed),
            old_commits=tuple(position for _, position in seen.old_commits),
        )
        for seen in watcher.steps
    ]


def run_both(case: Case) -> tuple[Result, list[Done], list[int], list[Done]]:
    engine = Engine(case.model, settings_of(case.rules))
    (result,), watcher = watch(engine, case.prompt)
    oracle = Oracle(Net(network_of(case.model)), case.rules, case.prompt)
    return result, told(watcher), oracle.decode(), oracle.log


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_engine_and_oracle_agree_on_every_decision(cache: Cache) -> None:
    cases_with_skips = old_commits = changed = forwards = skipped = 0
    for seed in range(CASES):
        case = draw(seed, cache)
        result, seen, tokens, log = run_both(case)
        assert seen == log, (seed, case.rules)
        assert list(result.tokens) == tokens, (seed, case.rules)
        assert result.stats.num_forwards == len(log), (seed, case.rules)

        plain = Engine(case.model, settings_of(case.rules), skip=NoSkip()).generate(case.prompt)
        changed += plain.tokens != result.tokens
        forwards += len(log)
        skipped += sum(len(done.skipped) for done in log)
        cases_with_skips += any(done.skipped for done in log)
        old_commits += sum(len(done.old_commits) for done in log)

    # The controls: where nothing is skipped, agreeing proves nothing.
    assert cases_with_skips > CASES // 2
    assert skipped > forwards
    assert old_commits > 5
    assert changed > CASES // 4


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_engine_and_oracle_agree_without_skip(cache: Cache) -> None:
    for seed in range(100, 106):
        case = draw(seed, cache)
        case = replace(case, rules=replace(case.rules, skip=None))
        result, seen, tokens, log = run_both(case)
        assert (seen, list(result.tokens)) == (log, tokens), (seed, case.rules)


RIGHT = SkipRule(layer_k=4, threshold=0.8, outlier=0.85)
WRONG = {
    "outlier ignored": replace(RIGHT, outlier=-1.0),
    "a higher threshold": replace(RIGHT, threshold=0.93),
    "one layer fewer": replace(RIGHT, layer_k=3),
    "the other reference": replace(RIGHT, reference="previous_step"),
    "just committed rows skip": replace(RIGHT, keep_committed=False),
    "their neighbours skip": replace(RIGHT, keep_neighbours=False),
}


RULES = Rules(
    gen_length=14,
    block_length=7,
    cache="dual",
    refresh_every=0,
    unmask="fixed",
    value=0.0,
    steps=None,
    skip=RIGHT,
    eos_stop=False,
    budget="finish",
)


@pytest.mark.parametrize("fault", list(WRONG))
def test_a_wrong_rule_is_caught(fault: str) -> None:
    caught = 0
    for seed in range(6):
        model, prompt = uneven_model(seed), prompt_of(seed, 6)
        wrong = Oracle(Net(network_of(model)), replace(RULES, skip=WRONG[fault]), prompt)
        wrong.decode()
        _, watcher = watch(Engine(model, settings_of(RULES)), prompt)
        caught += told(watcher) != wrong.log
    assert caught > 0
