"""The closed world: right answers, no question with two of them, and a clean split."""

import re
from collections import Counter
from itertools import accumulate, pairwise
from random import Random

import pytest

from pebble.world import GROUPS, Problem, draw, heldout
from pebble.world.facts import facts, heldout_problems, trained_problems
from pebble.world.problem import is_heldout
from pebble.world.split import EMPHASIS, FAMILIES
from skipstone.diff.judges import find_judge

EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
LAST = re.compile(r"The answer is (\d+)\.$")


@pytest.fixture(scope="module")
def drawn() -> list[Problem]:
    rng = Random(11)
    return [draw(rng) for _ in range(20_000)]


def test_every_emphasis_names_a_family_or_a_topic(drawn: list[Problem]) -> None:
    assert EMPHASIS.keys() <= {problem.family for problem in drawn}


def test_facts_are_many_and_well_phrased() -> None:
    assert len(facts()) >= 260
    for fact in facts():
        assert len(fact.trained) >= 6
        assert len(fact.heldout) >= 2
        assert 8 <= len(fact.answer.split()) <= 35


def test_no_fact_question_has_two_answers_or_two_sides() -> None:
    prompts = Counter(problem.prompt for problem in trained_problems() + heldout_problems())
    assert prompts.most_common(1)[0][1] == 1


def test_every_answer_of_the_facts_is_distinct() -> None:
    answers = Counter(fact.answer for fact in facts())
    assert answers.most_common(1)[0][1] == 1


def test_newton_is_trained() -> None:
    found = [p for p in trained_problems() if p.prompt == "Who is Newton, physics?"]
    assert len(found) == 1
    assert found[0].answer.startswith("Isaac Newton was an English physicist and mathematician who")


def test_training_never_shows_a_heldout_prompt(drawn: list[Problem]) -> None:
    problems = heldout(0, per_group=100) + heldout(1, per_group=100)
    held = {problem.prompt for problem in problems}
    assert held.isdisjoint(problem.prompt for problem in drawn)
    assert held.isdisjoint(problem.prompt for problem in trained_problems())
    # Facts and outside questions are parted by their tables, all others by the hash of the prompt.
    by_table = ("facts", "unknown")
    for problem in drawn:
        if problem.group not in by_table and problem.family not in by_table:
            assert not is_heldout(problem.prompt)
    for problem in problems:
        if problem.group not in by_table and problem.family not in by_table:
            assert is_heldout(problem.prompt)


def test_heldout_is_balanced_distinct_and_repeatable() -> None:
    problems = heldout(5, per_group=60)
    assert Counter(problem.group for problem in problems) == dict.fromkeys(GROUPS, 60)
    assert len({problem.prompt for problem in problems}) == 60 * len(GROUPS)
    assert problems == heldout(5, per_group=60)
    assert problems != heldout(6, per_group=60)


def test_training_draws_are_repeatable(drawn: list[Problem]) -> None:
    rng = Random(11)
    assert drawn[:500] == [draw(rng) for _ in range(500)]


def test_every_family_is_drawn(drawn: list[Problem]) -> None:
    seen = {(problem.group, problem.family) for problem in drawn}
    for group, families in FAMILIES.items():
        assert all((group, family.__name__) in seen for family in families)
    assert len(set(FAMILIES["stories"])) >= 7


def test_a_prompt_determines_which_answers_are_right(drawn: list[Problem]) -> None:
    keys: dict[str, str] = {}
    for problem in drawn:
        assert keys.setdefault(problem.prompt, problem.key) == problem.key
        assert find_judge(problem.judge)(problem.answer, problem.key)


def test_arithmetic_recomputes(drawn: list[Problem]) -> None:
    for problem in drawn:
        if problem.group not in ("stories", "chains") or problem.family.startswith("long_"):
            continue
        equations = EQUATION.findall(problem.answer)
        assert equations
        for left, sign, right, result in equations:
            assert _holds(int(left), sign, int(right), int(result)), problem
        last = LAST.search(problem.answer)
        assert last
        # Ages, for one, ends with a sum, and so does every other family: with its last equation.
        assert last[1] == equations[-1][3]


def test_chains_use_each_result_in_the_next_line(drawn: list[Problem]) -> None:
    for problem in drawn:
        if problem.group != "chains" or problem.family.startswith("long_"):
            continue
        equations = EQUATION.findall(problem.answer)
        values = [int(value) for equation in equations for value in (equation[0], equation[3])]
        assert all(0 <= value <= 199 for value in values)
        for before, after in pairwise(equations):
            assert before[3] in (after[0], after[2])


def test_long_chains_recompute(drawn: list[Problem]) -> None:
    long = [problem for problem in drawn if problem.family.startswith("long_")]
    assert {problem.family for problem in long} == {"long_totals", "long_walk"}
    for problem in long:
        given = [int(number) for number in re.findall(r"[-+]?\d+", problem.prompt)]
        said = [int(number) for number in problem.answer.removesuffix(".").split(", ")]
        totals = list(accumulate(given))
        assert said == (totals if problem.family == "long_totals" else totals[1:])
        assert 8 <= len(said) <= 12
        assert min(said) >= 0


def test_lists_recompute(drawn: list[Problem]) -> None:
    orders = {"sort_up": False, "sort_down": True}
    for problem in drawn:
        if problem.family in orders:
            given = [int(number) for number in re.findall(r"\d+", problem.prompt)]
            said = [int(number) for number in re.findall(r"\d+", problem.answer)]
            assert said == sorted(given, reverse=orders[problem.family])
        elif problem.family == "count_items":
            listed = problem.answer.split(". The list has ")[0].split(", ")
            assert problem.answer.endswith(f"The list has {len(listed)} items.")


def _holds(left: int, sign: str, right: int, result: int) -> bool:
    if sign == "/":
        return left == right * result
    return {"+": left + right, "-": left - right, "*": left * right}[sign] == result
