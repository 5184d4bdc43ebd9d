"""Queues, squares and brackets: every right answer is accepted, and nothing else is."""

import re
from itertools import pairwise, product
from random import Random

import pytest

from pebble.world import chains, puzzles, queues
from pebble.world.problem import Drawn
from skipstone.diff.judges import find_judge

PARTNER = {"(": ")", "[": "]", "{": "}"}


def is_right(drawn: Drawn, text: str) -> bool:
    return find_judge(drawn.judge)(text, drawn.accepted or drawn.answer)


def names_in(drawn: Drawn) -> list[str]:
    """The queue of a prompt: the longest row of names with commas between them."""
    rows = [row.split(", ") for row in re.sub(r"[.?]", "", drawn.prompt).split(": ")]
    words = next([word.split() for word in row] for row in rows if len(row) > 2)
    return [words[0][-1], *(word[0] for word in words[1:])]


@pytest.mark.parametrize("family", queues.FAMILIES, ids=lambda family: family.__name__)
def test_only_a_copy_leaves_a_queue_as_it_was(family: queues.Family) -> None:
    rng = Random(3)
    for _ in range(200):
        drawn = family(rng)
        unchanged = ", ".join(names_in(drawn)) + "."
        assert is_right(drawn, drawn.answer)
        assert is_right(drawn, unchanged) == (family is queues.queue_copy)


def test_any_change_of_the_asked_kind_is_right() -> None:
    rng = Random(4)
    for _ in range(100):
        drawn = queues.swap_any(rng)
        names = names_in(drawn)
        for left in range(len(names) - 1):
            for right in range(left + 1, len(names)):
                swapped = names.copy()
                swapped[left], swapped[right] = names[right], names[left]
                assert is_right(drawn, ", ".join(swapped) + ".") == (right == left + 1)
        drawn = queues.remove_any(rng)
        names = names_in(drawn)
        shorter = [names[:place] + names[place + 1 :] for place in range(len(names))]
        assert all(is_right(drawn, ", ".join(row) + ".") for row in shorter)
        assert not is_right(drawn, ", ".join(names[2:]) + ".")


def test_where_many_answers_are_right_each_is_shown() -> None:
    shown = set[str]()
    for seed in range(400):
        rng = Random(0)
        names = rng.sample(queues.NAMES, 4)
        drawn = queues._any(Random(seed), "?", ([*names[:i], "X", *names[i:]] for i in range(5)))
        shown.add(drawn.answer)
    assert len(shown) == 5


def test_the_squares_are_counted_right() -> None:
    assert [len(puzzles._latins(size)) for size in (2, 3, 4)] == [2, 12, 576]
    assert len(puzzles._sudokus()) == 288


@pytest.mark.parametrize("family", [puzzles.latin_3, puzzles.latin_4])
def test_a_latin_square_keeps_what_is_given(family: puzzles.Family) -> None:
    rng = Random(5)
    for _ in range(200):
        drawn = family(rng)
        given = rows_of(drawn.prompt)
        size = len(given)
        for answer in drawn.accepted.split("\n"):
            square = rows_of(answer)
            assert all(sorted(row) == list(range(1, size + 1)) for row in square)
            assert all(
                sorted(column) == list(range(1, size + 1)) for column in zip(*square, strict=True)
            )
            for mine, asked in zip(square, given, strict=True):
                assert all(wanted in (0, cell) for cell, wanted in zip(mine, asked, strict=True))
        broken = drawn.answer.translate(str.maketrans("12", "21", ""))
        assert is_right(drawn, broken) == (broken in drawn.accepted.split("\n"))


def test_a_sudoku_has_one_solution() -> None:
    rng = Random(6)
    few = 0
    for _ in range(60):
        drawn = puzzles.sudoku(rng)
        given = [cell for row in rows_of(drawn.prompt) for cell in row]
        solutions = list(solve(given))
        assert [" / ".join(" ".join(map(str, s[i : i + 4])) for i in (0, 4, 8, 12)) for s in
                solutions] == [drawn.answer]  # fmt: skip
        few += sum(map(bool, given)) <= 6
    assert few > 30


def test_closed_brackets_begin_as_given_and_match() -> None:
    rng = Random(7)
    for _ in range(300):
        drawn = puzzles.close_brackets(rng)
        given = drawn.prompt.split()[-1]
        assert drawn.answer.startswith(given)
        assert len(drawn.answer) > len(given)
        assert matches(drawn.answer)
        # No shorter ending would do.
        assert not any(matches(drawn.answer[:end]) for end in range(len(given), len(drawn.answer)))


def test_every_filling_that_matches_is_right() -> None:
    rng = Random(8)
    signs = "".join(PARTNER) + "".join(PARTNER.values())
    checked = 0
    while checked < 40:
        drawn = puzzles.fill_brackets(rng)
        (given,) = (word for word in drawn.prompt.split() if "_" in word)
        if given.count("_") > 4:
            continue
        checked += 1
        form = given.replace("_", "%s")
        fillings = {form % filling for filling in product(signs, repeat=given.count("_"))}
        assert set(drawn.accepted.split("\n")) == {row for row in fillings if matches(row)}


def test_a_walk_goes_both_ways() -> None:
    rng = Random(9)
    ways = set[bool]()
    for _ in range(50):
        said = [int(n) for n in chains.long_walk(rng)[1].removesuffix(".").split(", ")]
        ways |= {before < after for before, after in pairwise(said)}
    assert ways == {True, False}


def rows_of(text: str) -> list[list[int]]:
    grid = [part.rstrip(".") for part in text.replace(":", "").split() if part.rstrip(".")]
    cells = " ".join(grid).partition(" / ")
    head = [word for word in cells[0].split() if word.isdigit()]
    width = len(cells[2].partition(" / ")[0].split())
    first = head[-width:]
    rest = [row.split() for row in cells[2].split(" / ")]
    return [[int(cell) for cell in row] for row in (first, *rest)]


def solve(cells: list[int]) -> list[list[int]]:
    """All solutions by trying every value in every open cell."""
    if 0 not in cells:
        return [cells]
    place = cells.index(0)
    row, column = divmod(place, 4)
    seen = {
        value
        for other, value in enumerate(cells)
        if other // 4 == row
        or other % 4 == column
        or (other // 8, other % 4 // 2) == (row // 2, column // 2)
    }
    free = [value for value in range(1, 5) if value not in seen]
    return [s for value in free for s in solve([*cells[:place], value, *cells[place + 1 :]])]


def matches(row: str) -> bool:
    before = ""
    while before != row:
        before = row
        for opening, closing in PARTNER.items():
            row = row.replace(opening + closing, "")
    return not row
