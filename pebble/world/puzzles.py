"""Puzzles whose parts must fit together: Latin squares, 4 x 4 Sudoku, brackets.

A square is written row by row, with 0 for an open cell: "1 0 3 / 0 3 1 / 0 0 2". Where many
solutions are right, training shows one of them by chance.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import permutations
from random import Random

from pebble.world.problem import Drawn

Family = Callable[[Random], Drawn]
Square = tuple[int, ...]
"""The cells, row by row; 0 is open."""

SUDOKU_GIVENS = (4, 7)
LATIN_3_GIVENS = (1, 3)
LATIN_4_GIVENS = (2, 6)

PAIRS = {"(": ")", "[": "]", "{": "}"}
GAP = "_"
MOST_OPEN = 6
FILLED_PAIRS = (3, 5)
GAPS = (3, 6)


def latin_3(rng: Random) -> Drawn:
    """A Latin square of three rows with few cells given."""
    return _latin(rng, 3, LATIN_3_GIVENS)


def latin_4(rng: Random) -> Drawn:
    """A Latin square of four rows with few cells given."""
    return _latin(rng, 4, LATIN_4_GIVENS)


def sudoku(rng: Random) -> Drawn:
    """A 4 x 4 Sudoku that has one solution."""
    solution = rng.choice(_sudokus())
    fewest = rng.randint(*SUDOKU_GIVENS)
    given = list(solution)
    left = len(given)
    for cell in rng.sample(range(len(given)), len(given)):
        if left == fewest:
            break
        given[cell] = 0
        if len(_fitting(_sudokus(), given)) > 1:
            given[cell] = solution[cell]
        else:
            left -= 1
    ask = rng.choice(
        (
            "Solve this Sudoku of four rows: {}.",
            "Complete the 4 x 4 Sudoku {}.",
            "Fill the open cells of the small Sudoku {}.",
        )
    )
    return Drawn(ask.format(_grid(given)), _grid(solution))


def close_brackets(rng: Random) -> Drawn:
    """The brackets that are still open are closed in the right order."""
    row, stack = "", list[str]()
    length = rng.randint(4, 10)
    while len(row) < length or not stack:
        if stack and (len(stack) == MOST_OPEN or rng.random() < 0.3):
            row += PAIRS[stack.pop()]
        else:
            stack.append(rng.choice(tuple(PAIRS)))
            row += stack[-1]
    ask = rng.choice(
        ("Close the brackets: {}", "Complete the brackets {}", "Which brackets are missing? {}")
    )
    return Drawn(ask.format(row), row + "".join(PAIRS[sign] for sign in reversed(stack)))


def fill_brackets(rng: Random) -> Drawn:
    """The gaps of a row of brackets are filled so that all of them match."""
    row = _balanced(rng, rng.randint(*FILLED_PAIRS))
    gaps = set(rng.sample(range(len(row)), min(rng.randint(*GAPS), len(row))))
    given = "".join(GAP if place in gaps else sign for place, sign in enumerate(row))
    ask = rng.choice(
        (
            "Fill the gaps so that the brackets match: {}",
            "Put brackets into the gaps of {}",
            "Make this row of brackets match: {}",
        )
    )
    right = list(_fillings(given))
    return Drawn(ask.format(given), rng.choice(right), "any", "\n".join(right))


def _latin(rng: Random, size: int, givens: tuple[int, int]) -> Drawn:
    solution = rng.choice(_latins(size))
    kept = set(rng.sample(range(size * size), rng.randint(*givens)))
    given = [value if cell in kept else 0 for cell, value in enumerate(solution)]
    ask = rng.choice(
        (
            "Complete this Latin square: {}.",
            "Fill the open cells of the Latin square {}.",
            "Write a Latin square that fits {}.",
        )
    )
    right = [_grid(square) for square in _fitting(_latins(size), given)]
    return Drawn(ask.format(_grid(given)), rng.choice(right), "any", "\n".join(right))


@cache
def _latins(size: int) -> tuple[Square, ...]:
    """All squares in which every row and every column holds each number once."""
    rows = list(permutations(range(1, size + 1)))
    squares: list[Square] = [()]
    for _ in range(size):
        squares = [
            (*square, *row)
            for square in squares
            for row in rows
            if all(value not in square[column::size] for column, value in enumerate(row))
        ]
    return tuple(squares)


@cache
def _sudokus() -> tuple[Square, ...]:
    """The Latin squares of four rows in which every quarter holds each number once, too."""
    corners = (0, 2, 8, 10)
    return tuple(
        square
        for square in _latins(4)
        if all(len({square[c + step] for step in (0, 1, 4, 5)}) == 4 for c in corners)
    )


def _fitting(squares: Sequence[Square], given: Sequence[int]) -> list[Square]:
    wanted = [(cell, value) for cell, value in enumerate(given) if value]
    return [s for s in squares if all(s[cell] == value for cell, value in wanted)]


def _grid(cells: Sequence[int]) -> str:
    size = int(len(cells) ** 0.5)
    rows = (cells[start : start + size] for start in range(0, len(cells), size))
    return " / ".join(" ".join(map(str, row)) for row in rows)


def _balanced(rng: Random, pairs: int) -> str:
    row, stack = "", list[str]()
    while pairs or stack:
        if pairs and (not stack or rng.random() < 0.55):
            stack.append(rng.choice(tuple(PAIRS)))
            row += stack[-1]
            pairs -= 1
        else:
            row += PAIRS[stack.pop()]
    return row


def _fillings(given: str, stack: str = "", done: str = "") -> Iterator[str]:
    """Every balanced row that agrees with the signs given."""
    place = len(done)
    if len(stack) > len(given) - place:
        return
    if place == len(given):
        yield done
        return
    for opening in PAIRS:
        if given[place] in (GAP, opening):
            yield from _fillings(given, stack + opening, done + opening)
    if stack and given[place] in (GAP, PAIRS[stack[-1]]):
        yield from _fillings(given, stack[:-1], done + PAIRS[stack[-1]])


FAMILIES: tuple[Family, ...] = (
    latin_3,
    latin_4,
    sudoku,
    close_brackets,
    fill_brackets,
)
