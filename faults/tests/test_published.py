"""The bench of published code, as far as it can be tried without any: planting, and scoring."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from faults.published import table, trial
from faults.published.__main__ import main
from faults.published.bases import BASES
from faults.published.bench import SETS
from faults.published.code import Base, Call, Code, Context, Job
from faults.published.fault import Fault, Plant
from faults.published.insert import inserted
from faults.published.trial import Outcome, Verdict
from faults.truth import CACHED, Truth
from skipstone.errors import ConfigError
from specimens import decode, llada_style

HERE = sys.modules[__name__]
ROOT = Path(__file__).parents[2]


def loop(numbers: list[int]) -> list[int]:
    """Stands for a loop of theirs."""
    done = list[int]()
    total = 0
    for number in numbers:
        step, total = number + 1, total + number
        done += [step]
    if not done:
        done = [total]
    return done


class Holder:
    """Has a method."""

    def value(self, start: int) -> int:
        """One more."""
        result = start
        return result + 1


def outcome(verdict: Verdict, **more: Any) -> Outcome:
    return Outcome(
        "a fault", "a base", "a job", "it does so", ("stale-kv",), False, verdict, **more
    )


def test_a_statement_runs_behind_every_assignment_to_a_variable() -> None:
    with inserted(HERE, "loop", "step *= 10", after="step"):
        assert loop([1, 2]) == [20, 30]
    assert loop([1, 2]) == [2, 3]


def test_one_assignment_can_be_chosen() -> None:
    with inserted(HERE, "loop", "done.append(99)", after="done", nth=0):
        assert loop([1]) == [99, 2]
    with inserted(HERE, "loop", "done.append(99)", after="done", nth=-1):
        assert loop([]) == [0, 99]
        assert loop([1]) == [2]


def test_two_statements_can_be_put_into_one_function() -> None:
    with (
        inserted(HERE, "loop", "step *= 10", after="step"),
        inserted(HERE, "loop", "step += 1", after="step", nth=-1),
    ):
        assert loop([1]) == [21]


def test_a_method_is_rewritten_on_its_class() -> None:
    with inserted(Holder, "value", "result = -result", after="result"):
        assert Holder().value(3) == -2
    assert Holder().value(3) == 4


@pytest.mark.parametrize(("name", "nth"), [("nothing", None), ("step", 1), ("step", -2)])
def test_another_version_of_the_code_is_refused(name: str, nth: int | None) -> None:
    with pytest.raises(ConfigError, match="another version"):
        inserted(HERE, "loop", "pass", after=name, nth=nth)


def test_a_wrong_claim_weighs_as_three_that_are_missed() -> None:
    done = [
        outcome("right", step_right=True),
        outcome("right", step_right=True, place_right=True),
        outcome("inconclusive"),
        outcome("WRONG"),
        outcome("does not act"),
    ]
    shares = table.shares(done)
    assert shares == {
        "cause": 0.5,
        "inconclusive": 0.25,
        "wrong": 0.25,
        "weighted": 0.0,
        "step": pytest.approx(2 / 3),
        "place": pytest.approx(1 / 3),
    }
    assert "does not act" in table.summary(done).lower()


@pytest.mark.parametrize("chosen", sorted(SETS))
def test_every_fault_says_what_it_does_and_what_is_right(chosen: str) -> None:
    every = SETS[chosen]
    assert every
    for fault in every:
        assert fault.says.endswith("."), fault.name
        assert fault.causes, fault.name
        assert fault.jobs, fault.name
    assert len({(fault.base, fault.name) for fault in every}) == len(every)


def test_what_is_right_to_say_is_a_rule_that_the_docs_list() -> None:
    table_of_rules = (ROOT / "docs/diagnoses.md").read_text().partition("| --- |")[2]
    known = set(re.findall(r"[a-z]+(?:-[a-z]+)*", table_of_rules.partition("Out of reach")[0]))
    for fault in SETS["unseen"]:
        assert {cause.partition(":")[0] for cause in fault.causes} <= known, fault.name


def test_faults_of_the_judge_are_spread_over_kinds_and_code_bases() -> None:
    every = SETS["unseen"]
    kinds = Counter(fault.plant.__module__.rpartition(".")[2] for fault in every)
    assert set(kinds) == {"batch", "cache", "forward", "given", "rule"}
    assert min(kinds.values()) >= 10
    assert {fault.base for fault in every} == set(BASES)
    others = {fault.name for name in ("planted", "heldout") for fault in SETS[name]}
    assert not others & {fault.name for fault in every}


# --- a trial, on a loop and a model that are here -------------------------------------------------


def _run(code: Code, job: Job) -> object:
    sizes = {"gen_length": job.gen_length, "block_length": job.block_length}
    return code.modules["decode"].dual_cache(code.net, job.ids, **sizes)


BASE = Base(
    "here",
    (),
    lambda _: {"decode": decode},
    lambda _, job: llada_style.from_model(job.model),
    _run,
    ours=True,
)
JOB = Job("dual", ((3, 14, 15, 92, 65),), gen_length=12, block_length=6)


def rows_moved(code: Code) -> Context:
    """Rows are written one to the right."""

    def shift(call: Call) -> None:
        if call.kwargs.get("replace_position") is not None:
            call.kwargs["replace_position"] = call.kwargs["replace_position"].roll(1, 1)

    return code.calls(shift)


def nothing(code: Code) -> Context:
    """Nothing is wrong."""
    return nullcontext()


def raises(code: Code) -> Context:
    """The loop breaks."""
    return code.insert("decode.dual_cache", "raise RuntimeError('no')", after="canvas", nth=0)


def never_ends(code: Code) -> Context:
    """The model is asked again and again."""
    forever = "while True: net(canvas)"
    return code.insert("decode.dual_cache", forever, after="canvas", nth=0)


def outcomes_of(plant: Plant, *causes: str) -> list[Outcome]:
    fault = Fault("a fault", "here", plant, causes, Truth(CACHED), (JOB,))
    return trial.run(fault, JOB, BASE, BASE.load({}))


def test_a_fault_is_recorded_diagnosed_and_scored_without_a_model_and_with_it() -> None:
    without, with_model = outcomes_of(rows_moved, "wrong-cache-row")
    assert (without.model, with_model.model) == (False, True)
    for outcome in (without, with_model):
        assert outcome.verdict == "right", outcome.said
        assert outcome.step_right
    wrong, _ = outcomes_of(rows_moved, "sampler")
    assert wrong.verdict == "WRONG"
    worded, _ = outcomes_of(rows_moved, "wrong-cache-row: nobody says this")
    assert worded.verdict == "WRONG"


def test_a_fault_that_changes_nothing_is_not_counted() -> None:
    (outcome,) = outcomes_of(nothing, "sampler")
    assert outcome.verdict == "does not act"
    assert not outcome.counts


@pytest.mark.parametrize("plant", [raises, never_ends])
def test_a_run_that_breaks_or_never_ends_is_listed(plant: Plant) -> None:
    (outcome,) = outcomes_of(plant, "sampler")
    assert outcome.verdict == "broke"
    assert not outcome.counts


def test_without_a_checkout_it_says_what_to_pass() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 1
    assert "pass one of --fast-dllm" in result.output


def test_two_sets_of_faults_at_once_are_refused() -> None:
    result = CliRunner().invoke(main, ["--heldout", "--unseen"])
    assert result.exit_code == 2
    assert "pass one" in result.output


@pytest.mark.parametrize("name", ["HELDOUT", "UNSEEN"])
def test_the_makefile_chooses_the_faults(name: str) -> None:
    command = ["make", "-n", "published", f"{name}=1", "D2CACHE=/a"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"--{name.lower()}" in said
    assert '--d2cache "/a"' in said


def test_the_makefile_passes_the_checkouts_that_are_named() -> None:
    command = ["make", "-n", "published", "FAST_DLLM=/a folder", "ES_DLLM=/b"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert '--fast-dllm "/a folder"' in said
    assert '--es-dllm "/b"' in said
    assert "--llada" not in said
