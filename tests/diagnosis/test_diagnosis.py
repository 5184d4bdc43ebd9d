"""Which setting explains a difference, and which position a similarity: found again if planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skipstone import CosineSkip, DualCache, Fixed, NoCache
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import diagnose
from skipstone.diagnosis.dtypes import rounded
from skipstone.diagnosis.factors import factors_of, reproduces, restores, swap
from skipstone.diagnosis.rule import Answer
from skipstone.diagnosis.rules import RULES
from skipstone.diagnosis.similarity import replayed
from skipstone.errors import TraceError
from skipstone.record import MemoryTrace, StepRecord
from tests.helpers.recorded import alone, case_of, trace_of
from tests.helpers.watching import BASE, LOW

NOTHING = CosineSkip(skip_layer_k=3, skip_threshold=1.0)

# --- factors: which setting?

PLAIN = BASE.replace(cache=NoCache(), unmask=Fixed())


def test_one_setting_among_several_is_found_by_swapping() -> None:
    a = PLAIN.replace(skip=NOTHING)
    idle = replace(NOTHING, keep_neighbours=False)
    case = case_of(a, a.replace(cache=DualCache(), skip=idle, eos_stop=True))
    names = [factor.name for factor in factors_of(case)]
    assert names == ["cache", "skip.keep_neighbours", "eos_stop"]
    found = swap(case)
    assert found is not None
    assert [factor.name for factor in found.factors] == ["cache"]
    assert (found.removed, found.added) == (True, True)
    assert [factor.name for factor in found.ruled_out] == names[1:]
    # Control: nothing else restores A, alone or together.
    assert not restores(case, found.ruled_out)
    assert not reproduces(case, found.ruled_out)


def test_a_field_of_a_policy_is_a_factor_of_its_own() -> None:
    a = BASE.replace(unmask=Fixed(), skip=LOW)
    case = case_of(a, a.replace(skip=replace(LOW, skip_outlier=-1.0, keep_neighbours=False)))
    found = swap(case)
    assert found is not None
    assert [factor.name for factor in found.factors] == ["skip.keep_neighbours"]
    assert [factor.name for factor in found.ruled_out] == ["skip.skip_outlier"]


def test_two_settings_that_are_both_needed_are_both_named() -> None:
    case = case_of(PLAIN, PLAIN.replace(cache=DualCache(), skip=LOW, eos_stop=True))
    found = swap(case)
    assert found is not None
    assert [factor.name for factor in found.factors] == ["cache", "skip"]
    assert (found.removed, found.added) == (True, True)
    assert [factor.name for factor in found.ruled_out] == ["eos_stop"]
    assert not any(restores(case, (factor,)) for factor in factors_of(case))
    cause = diagnose(case).cause
    assert cause is not None
    assert "cache: none against dual, skip: none against cosine together" in cause.experiment


def test_equal_settings_have_no_factors() -> None:
    case = case_of(PLAIN, PLAIN)
    assert (factors_of(case), swap(case)) == ((), None)


# --- similarity: replayed from the states

SKIPS = [
    replace(LOW, similarity_dtype=dtype, reference=reference)
    for dtype in ("float64", "float32", "bfloat16")
    for reference in ("last_computed", "previous_step")
]
# What the arithmetic may be off by.
WITHIN = {"float64": 1e-12, "float32": 1e-6, "bfloat16": 2.0**-7}


def judged(record_of: MemoryTrace) -> list[StepRecord]:
    return [step for step in record_of.records[0].steps if step.judgements is not None]


@pytest.mark.parametrize("skip", SKIPS, ids=repr)
def test_recorded_similarities_come_out_again(skip: CosineSkip) -> None:
    b = trace_of(BASE.replace(unmask=Fixed(), skip=skip))
    assert any(step.skipped for step in judged(b))
    for step in judged(b):
        case = alone(b)
        case.tensors.focus = step.forward
        found = replayed(case, step)
        assert found is not None
        assert step.judgements is not None
        error = np.abs(found.right_mean - step.judgements.mean)
        assert error.max() < WITHIN[skip.similarity_dtype]
        assert not found.crossed.any()
        # Control: with the rows rolled by one they are not the recorded ones.
        rolled = np.abs(np.roll(found.right_mean, 1) - step.judgements.mean)
        assert rolled.max() > 2.0**-6
        on_grid = rounded(step.judgements.similarity, "bfloat16") == step.judgements.similarity
        assert on_grid.all() == (skip.similarity_dtype == "bfloat16")


# --- a rule that raises


def test_a_rule_that_raises_is_one_line_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def raises(case: Case) -> Answer:
        raise IndexError("index 32 is out of bounds for axis 0 with size 12")

    a = PLAIN.replace(skip=NOTHING)
    b = a.replace(cache=DualCache())
    whole = diagnose(case_of(a, b))
    broken = tuple(
        replace(rule, examine=raises) if rule.name in ("visible-set", "commit-tie") else rule
        for rule in RULES
    )
    monkeypatch.setattr("skipstone.diagnosis.diagnose.RULES", broken)
    found = diagnose(case_of(a, b))
    assert whole.unjudged == ()
    assert (found.verdict, found.parted) == (whole.verdict, whole.parted)
    (line,) = found.unjudged
    assert line.startswith("visible-set, commit-tie: IndexError at test_diagnosis.py:")
    assert any(shown.startswith("could not judge: visible-set") for shown in found.lines())
    assert not {"visible-set", "commit-tie"} & {r.rule for r in found.ruled_out}


def test_what_is_meant_for_the_user_is_still_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(case: Case) -> Answer:
        raise TraceError("the trace is broken")

    case = case_of(PLAIN, PLAIN.replace(cache=DualCache()))
    broken = (replace(RULES[0], examine=raises), *RULES[1:])
    monkeypatch.setattr("skipstone.diagnosis.diagnose.RULES", broken)
    with pytest.raises(TraceError):
        diagnose(case)
