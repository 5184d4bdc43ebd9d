"""Faults in other people's code, named from what ``attach`` recorded."""

from __future__ import annotations

import pytest

from faults.foreign import Against, Encounter, Stranger, run
from faults.foreign_cases import CORRECT, FAULTY, OF_THE_ROWS
from faults.tests.strangers import named, one_style_each

CHOSEN = (
    "misaligned rows",
    "similarity in bfloat16",
    "stated skip threshold differs",
    "replace_position off by one",
    "no refresh",
    "position ids off by one",
    "bug in layer 3",
    "causal mask left on",
    "masks left by the budget",
    "ends at the first EOS",
    *(s.name for s in OF_THE_ROWS),
)
FAULTS = tuple(s for s in FAULTY if s.name in CHOSEN)


def test_every_chosen_fault_is_there() -> None:
    assert {s.name for s in FAULTS} == set(CHOSEN)
    assert {s.style for s in FAULTS} == {"llada", "hf", "bare"}


@pytest.mark.parametrize("stranger", one_style_each(FAULTS))
def test_a_fault_is_named_with_its_step_and_place(stranger: Stranger) -> None:
    found = run(Encounter(stranger, stranger.jobs[0], stranger.against[0]))
    assert found.acted
    assert (found.cause_right, found.step_right, found.place_right) == (True, True, True), found


@pytest.mark.parametrize("stranger", one_style_each([*FAULTS[:4], *OF_THE_ROWS]))
def test_it_is_named_without_a_model_at_hand(stranger: Stranger) -> None:
    found = run(Encounter(stranger, stranger.jobs[0], "code", reference=False))
    assert (found.cause_right, found.step_right, found.place_right) == (True, True, True), found


@pytest.mark.parametrize("reference", [True, False], ids=["with-model", "without"])
@pytest.mark.parametrize("name", ["hf-no refresh", "llada-stated threshold differs"])
def test_it_is_named_beside_other_code(name: str, reference: bool) -> None:
    stranger = next(s for s in FAULTY if named(s) == name)
    found = run(Encounter(stranger, stranger.jobs[0], "code", reference))
    assert (found.cause_right, found.step_right, found.place_right) == (True, True, True), found


@pytest.mark.parametrize("style", ["llada", "hf", "bare"])
def test_a_run_may_end_at_eos_with_its_block(style: str) -> None:
    stranger = next(s for s in FAULTY if named(s) == f"{style}-ends at the first EOS")
    for job in stranger.jobs:
        found = run(Encounter(stranger, job, "code", reference=False))
        assert not found.acted or found.cause_right, found


@pytest.mark.parametrize("stranger", CORRECT, ids=named)
@pytest.mark.parametrize("reference", [True, False], ids=["with-model", "without"])
def test_correct_code_is_the_same_as_ours(stranger: Stranger, reference: bool) -> None:
    for job in (stranger.jobs[0], stranger.jobs[-1]):
        found = run(Encounter(stranger, job, "engine", reference))
        assert (found.acted, found.verdict, found.cause_right) == (False, "same", True), found


@pytest.mark.parametrize("style", ["llada", "hf", "bare"])
def test_a_confidence_that_is_never_seen_is_told_from_the_logits(style: str) -> None:
    stranger = next(s for s in FAULTY if named(s) == f"{style}-confidence in bfloat16")
    found = run(Encounter(stranger, stranger.jobs[1], "engine"))
    assert found.acted
    assert (found.verdict, found.step_right, found.place_right) == ("confidence-dtype", True, True)


@pytest.mark.parametrize("job", [1, 3])
def test_a_departure_that_decides_nothing_is_never_called_the_same(job: int) -> None:
    """A makes no forward that only writes, and B makes one behind each block."""
    bent = next(s for s in FAULTY if named(s) == "hf-bug in layer 3")
    told = run(Encounter(bent, bent.jobs[job], "engine"))
    assert (told.verdict, told.step_right, told.place_right) == ("module-bug", True, True), told
    untold = run(Encounter(bent, bent.jobs[job], "engine", reference=False))
    assert (untold.verdict, untold.cause_right) == ("inconclusive", True), untold


@pytest.mark.parametrize(("against", "reference"), [("engine", True), ("code", False)])
def test_a_wrong_read_in_a_forward_that_decides_nothing_is_the_first(
    against: Against, reference: bool
) -> None:
    """Each of the first two blocks is filled in one step; what follows it only writes."""
    swapped = next(s for s in FAULTY if named(s) == "hf-keys and values swapped")
    found = run(Encounter(swapped, swapped.jobs[5], against, reference))
    assert (found.verdict, found.step_right, found.place_right) == ("wrong-cache-row", True, True)
