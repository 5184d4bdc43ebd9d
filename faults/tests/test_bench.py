"""A small part of the fault bench, on the first layers of the embedded model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache as cache_results
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from faults.bench import numbers, part_of
from faults.controls import NOISES, Noise, controls
from faults.engine import arithmetic, cache, decisions, sight, skip
from faults.engine.instead import Fault
from faults.engine.skip import low_precision_similarity as similarity_in
from faults.foreign_cases import CORRECT
from faults.specimen import PROMPTS, Pair, Specimen
from faults.table import read_json, write_json
from faults.trial import Outcome, Trial, record, run
from faults.truth import (
    ALWAYS,
    CACHED,
    EMPTY,
    SECOND_BLOCK,
    Truth,
    anywhere,
    candidates,
    from_forward,
    in_block,
    middle_row,
    near_block,
    outside_block,
    parted,
    skips_part,
)
from skipstone import policies

SPEC = "gen_length=12 block_length=6 unmask=fixed"
DEPTHS = (
    "gen_length=24 block_length=12 unmask=fixed eos_stop=false cache=once:refresh_every=0 "
    "skip=ratio:keep=0.5@0.1+0.3@0.5,keep_neighbours=false"
)
SKIP = f"{SPEC} skip=cosine:skip_layer_k=4,skip_threshold=0.99"


def specimen(name: str, number: int, truth: Truth, fault: Fault, spec: str = SPEC) -> Specimen:
    pairs = (Pair(spec, spec),)
    return Specimen(name, (number,), pairs, truth, fault, model="short", prompts=PROMPTS[:1])


FAULTS = (
    specimen("rows", 1, Truth(CACHED, where=in_block), skip.misaligned_reference, SKIP),
    specimen(
        "refresh",
        11,
        Truth(SECOND_BLOCK, (1,), outside_block),
        cache.no_refresh_at_the_second_block,
    ),
    specimen("cache row", 13, Truth(CACHED, (1,), near_block), cache.write_one_position_off),
    replace(
        specimen(
            "other request", 13, Truth(CACHED, (1,), in_block), cache.keys_of_the_other_request
        ),
        companions=PROMPTS[1:2],
    ),
    specimen("rotary", 14, Truth(CACHED, (1,), in_block), cache.positions_one_too_far),
    specimen("suffix", 15, Truth(CACHED, (1,), in_block), sight.suffix_hidden()),
    specimen("start hidden", 15, Truth(CACHED, (1,), in_block), sight.prompt_hidden(5)),
    specimen("window", 15, Truth(CACHED, (1,), in_block), sight.window(3)),
    specimen("silu", 19, Truth(ALWAYS, (3,), anywhere), arithmetic.wrong_layer(2)),
    specimen("bfloat16", 2, Truth(CACHED, where=in_block), similarity_in(torch.bfloat16), SKIP),
    specimen("second is empty", 5, Truth(EMPTY, where=candidates), decisions.empty_choice_of(2)),
    specimen("fifth is empty", 5, Truth(EMPTY, where=candidates), decisions.empty_choice_of(5)),
    specimen(
        "unsure are empty",
        5,
        Truth(EMPTY, where=candidates),
        decisions.never_the_best_alone,
        SPEC.replace("fixed", "threshold:value=0.95"),
    ),
    specimen(
        "number of row", 1, Truth(skips_part, where=in_block), skip.states_by_number_of_row, DEPTHS
    ),
    specimen(
        "no weight", 23, Truth(skips_part, where=in_block), skip.confidence_has_no_weight, DEPTHS
    ),
    specimen(
        "renewed by who left",
        12,
        Truth(skips_part, where=in_block),
        skip.state_of_rows_that_leave,
        DEPTHS,
    ),
    specimen("half", 24, Truth(parted, where=candidates), decisions.half_the_steps),
    specimen("nan", 26, Truth(from_forward(4), (3,), middle_row), arithmetic.not_a_number(2)),
)


def trial(of: Specimen, *, alone: bool) -> Trial:
    return Trial(of, of.prompts[0], of.pairs[0], alone)


@cache_results
def outcome(of: Specimen, *, alone: bool) -> Outcome:
    """What is found of a fault; the same for all tests."""
    return run(trial(of, alone=alone))


def ways() -> Iterator[object]:
    """Each fault with a model at hand and from its trace: one now, the other in the long run."""
    for turn, fault in enumerate(FAULTS):
        for alone, way in ((False, "at-hand"), (True, "from-its-trace")):
            marks = () if alone == bool(turn % 2) else pytest.mark.long
            yield pytest.param(fault, alone, id=f"{fault.name}-{way}", marks=marks)


@pytest.mark.parametrize(("fault", "alone"), list(ways()))
def test_a_fault_is_named_with_its_step_and_place(fault: Specimen, alone: bool) -> None:
    found = outcome(fault, alone=alone)
    assert found.acted
    assert (found.number, found.step_right, found.place_right) == (fault.right[0], True, True), (
        found
    )


def test_a_store_that_another_request_filled_can_be_planted() -> None:
    """Faults name the arguments of what they replace, which change."""
    dirty = replace(FAULTS[1], fault=cache.prompt_from_the_request_before(4))
    runs = record(dirty, PROMPTS[0], dirty.pairs[0])
    a, b = (trace.records[0].steps[0] for trace in (runs.a, runs.b))
    assert b.rows.size == a.rows.size - 4


def test_the_bench_has_250_pairs_that_are_right_and_no_two_are_the_same() -> None:
    kinds = {
        (s.name, s.model, pair, prompt)
        for s in controls()
        for pair in s.pairs
        for prompt in s.prompts
    }
    foreign = [(s, job, of) for s in CORRECT for job in s.jobs for of in s.against]
    assert len(kinds) == sum(len(s.pairs) * len(s.prompts) for s in controls())
    assert len(kinds) + len(foreign) >= 250


def test_a_policy_of_every_name_is_among_what_is_right() -> None:
    settings = [pair.settings()[1] for s in controls() for pair in s.pairs]
    for kind in policies.KINDS:
        assert {type(getattr(s, kind.name)) for s in settings} >= set(kind.built_in.values())


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.name)
def test_noise_is_no_cause(noise: Noise) -> None:
    quiet = replace(
        FAULTS[1],
        fault=noise.around,
        companions=noise.companions,
        before=noise.before,
        watched=noise.watched,
        control=True,
    )
    found = run(trial(replace(quiet, right=()), alone=True))
    assert found.cause_right, found


def test_a_fault_taken_for_noise_is_an_alarm() -> None:
    loud = replace(FAULTS[1], control=True, right=())
    assert not run(trial(loud, alone=True)).cause_right


def test_the_score_holds_findings_against_the_truth() -> None:
    elsewhere = replace(FAULTS[5], right=(11,), truth=Truth(SECOND_BLOCK, (1,), in_block))
    found = run(trial(elsewhere, alone=True))
    assert (found.cause_right, found.step_right, found.place_right) == (False, False, False)


def test_a_fault_that_does_nothing_is_not_counted() -> None:
    one_block = "gen_length=6 block_length=6 unmask=fixed"
    idle = replace(FAULTS[1], pairs=(Pair(one_block, one_block),))
    assert not run(trial(idle, alone=False)).acted


def test_a_fault_ends_with_its_context() -> None:
    silu = next(fault for fault in FAULTS if fault.name == "silu")
    first = record(silu, PROMPTS[0], silu.pairs[0])
    second = record(FAULTS[5], PROMPTS[0], silu.pairs[0])
    a, b, again = (runs.records[0].steps[0].candidates for runs in (first.a, first.b, second.a))
    np.testing.assert_array_equal(a.confidence, again.confidence)
    assert not np.allclose(a.confidence, b.confidence)


def test_outcomes_read_back_as_they_were_written(tmp_path: Path) -> None:
    found = [outcome(FAULTS[1], alone=True), outcome(FAULTS[5], alone=True)]
    write_json(tmp_path / "out.json", found)
    assert read_json(tmp_path / "out.json") == found


def test_parts_of_the_bench_make_the_whole() -> None:
    wanted = numbers(("rows",), quick=False)
    parts = [part_of(wanted, k, 3) for k in (1, 2, 3)]
    assert sorted(chain(*parts)) == wanted
    assert all(parts)
