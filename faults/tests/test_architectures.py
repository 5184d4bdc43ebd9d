"""Faults are named on models of every architecture: other scores, other horizons, other parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache as cache_results

import pytest

from faults.engine import arithmetic, cache, decisions, sight, skip
from faults.engine.instead import Fault
from faults.models import model
from faults.specimen import Pair, Specimen
from faults.trial import Outcome, Trial, run
from faults.truth import (
    ALWAYS,
    CACHED,
    EMPTY,
    SECOND_BLOCK,
    Truth,
    anywhere,
    candidates,
    computed,
    parted,
)
from skipstone.models.table import ARCHITECTURES

PROMPT = "a prompt that is long enough to be seen"
# Greedy, whatever its authors recommend.
SPEC = "gen_length=32 block_length=16 unmask=fixed eos_stop=false temperature=0 top_p=1"
SKIP = f"{SPEC} skip=cosine:skip_layer_k=2,skip_threshold=0.9"
BLOCKWISE = [name for name in ARCHITECTURES if model(name).config.reach.block_size is not None]
"""Those whose rows see blocks."""


def specimen(
    name: str, architecture: str, number: int, truth: Truth, fault: Fault, spec: str = SPEC
) -> Specimen:
    pairs = (Pair(spec, spec),)
    return Specimen(name, (number,), pairs, truth, fault, model=architecture, prompts=(PROMPT,))


FAULTS: dict[str, Callable[[str], Specimen]] = {
    "no refresh": lambda of: specimen(
        "no refresh",
        of,
        11,
        Truth(SECOND_BLOCK, (1,)),
        cache.no_refresh_at_the_second_block,
    ),
    "cache row": lambda of: specimen(
        "cache row", of, 13, Truth(CACHED, (1,), anywhere), cache.values_backwards
    ),
    "rotary": lambda of: specimen(
        "rotary", of, 14, Truth(CACHED, (1,), computed), cache.positions_one_too_far
    ),
    "causal": lambda of: specimen("causal", of, 15, Truth(ALWAYS, (1,), anywhere), sight.causal()),
    "silu": lambda of: specimen(
        "silu", of, 19, Truth(ALWAYS, (2,), anywhere), arithmetic.wrong_layer(1)
    ),
    "cache unused": lambda of: specimen(
        "cache unused", of, 23, Truth(CACHED, (1,), anywhere), cache.cache_never_used
    ),
    "empty": lambda of: specimen(
        "empty", of, 5, Truth(EMPTY, where=candidates), decisions.empty_choice_of(2)
    ),
    "threshold": lambda of: specimen(
        "threshold",
        of,
        9,
        Truth(parted, where=candidates),
        decisions.threshold_too_low(0.1),
        SPEC.replace("fixed", "threshold:value=0.9"),
    ),
    "reference": lambda of: specimen(
        "reference", of, 1, Truth(CACHED, where=computed), skip.reference_of_the_neighbour, SKIP
    ),
}


@cache_results
def outcome(of: Specimen, *, alone: bool) -> Outcome:
    return run(Trial(of, PROMPT, of.pairs[0], alone))


def pairs() -> Iterator[object]:
    """Every fault on every architecture: a third of them now, the others in the long run."""
    for turn, name in enumerate(FAULTS):
        for number, architecture in enumerate(ARCHITECTURES):
            marks = () if (turn + number) % 3 == 0 else pytest.mark.long
            yield pytest.param(name, architecture, id=f"{name}-{architecture}", marks=marks)


@pytest.mark.parametrize(("name", "architecture"), list(pairs()))
def test_a_fault_is_named_with_its_step_and_place(name: str, architecture: str) -> None:
    fault = FAULTS[name](architecture)
    found = outcome(fault, alone=bool(len(name) % 2))
    assert found.acted
    right = found.number in fault.right, found.step_right, found.place_right
    assert right == (True, True, True), found


@pytest.mark.parametrize("architecture", BLOCKWISE)
@pytest.mark.parametrize("name", ["own block hidden", "horizon ignored"])
def test_a_wrong_horizon_is_named(name: str, architecture: str) -> None:
    block = model(architecture).config.reach.block_size
    assert block is not None
    fault = sight.own_block_hidden(block) if name[0] == "o" else sight.horizon_ignored()
    spec = SPEC.replace("gen_length=32 block_length=16", "gen_length=8")
    found = outcome(
        specimen(name, architecture, 15, Truth(ALWAYS, (1,), anywhere), fault, spec), alone=False
    )
    assert (found.number, found.step_right, found.place_right) == (15, True, True), found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("spec", [SPEC, SKIP])
def test_right_code_gives_no_alarm(architecture: str, spec: str) -> None:
    quiet = Specimen(
        "last bit",
        (),
        (Pair(spec, spec),),
        Truth(ALWAYS),
        arithmetic.last_bit,
        model=architecture,
        prompts=(PROMPT,),
        control=True,
    )
    found = outcome(quiet, alone=True)
    assert found.cause_right, found
