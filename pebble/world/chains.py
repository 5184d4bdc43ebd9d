"""Chained arithmetic: every line of the answer needs the line before it.

A family is a function that draws one prompt with its answer. All values stay in 0..199 and a
factor is a single digit, so the sums themselves are easy; what is hard is their order.
"""

from collections.abc import Callable
from itertools import accumulate
from random import Random

LETTERS = "abcdefg"
TOP = 199

# Five values are common and eight are rare, which keeps most answers within 64 tokens.
LENGTHS = (4, 5, 6, 7, 8)
LENGTH_SHARES = (26, 32, 26, 10, 6)

# The long families write the results alone, so each of them takes few tokens.
LONG = (8, 12)

# The lines of named variables are longer than those of bare sums, so there are fewer of them.
MOST_LETTERS = 7


def letters(rng: Random) -> tuple[str, str]:
    """Variables, each computed from the one before."""
    start, links = _walk(rng, min(_length(rng), MOST_LETTERS))
    names = LETTERS[: len(links) + 1]
    given = [f"a = {start}"]
    lines = [f"a = {start}"]
    value = start
    for before, name, (sign, operand) in zip(names, names[1:], links, strict=False):
        result = _apply(value, sign, operand)
        given.append(f"{name} = {before} {sign} {operand}")
        lines.append(f"{name} = {value} {sign} {operand} = {result}")
        value = result
    ask = rng.choice(("{}. What is {}?", "Let {}. Find {}.", "Given {}, compute {}."))
    return ask.format(", ".join(given), names[-1]), _closed("; ".join(lines), value)


def machine(rng: Random) -> tuple[str, str]:
    """A number that goes through a row of steps told in words."""
    start, links = _walk(rng, _length(rng))
    verbs = {"+": "add {}", "-": "subtract {}", "*": "multiply by {}"}
    steps = ", ".join(verbs[sign].format(operand) for sign, operand in links)
    lines: list[str] = []
    value = start
    for sign, operand in links:
        result = _apply(value, sign, operand)
        lines.append(f"{value} {sign} {operand} = {result}")
        value = result
    ask = rng.choice(
        (
            "Start with {}, then {}. What do you get?",
            "Take the number {}, then {}. What is the result?",
            "Begin at {}, then {}. Where do you end?",
        )
    )
    return ask.format(start, steps), _closed("; ".join(lines), value)


def running_total(rng: Random) -> tuple[str, str]:
    """Numbers added one after another."""
    terms = [rng.randint(1, 24) for _ in range(_length(rng))]
    value = terms[0]
    lines: list[str] = []
    for term in terms[1:]:
        lines.append(f"{value} + {term} = {value + term}")
        value += term
    ask = rng.choice(
        (
            "Add the numbers {} one by one.",
            "Keep a running total of {}.",
            "What is the sum of {}? Go step by step.",
        )
    )
    return ask.format(", ".join(map(str, terms))), _closed("; ".join(lines), value)


def two_before(rng: Random) -> tuple[str, str]:
    """A series in which each number is the sum of the two before it."""
    count = rng.randint(3, 6)
    # The last number is at most 5, 8, 13 or 21 times the larger start, as the series grows so.
    highest = TOP // {3: 5, 4: 8, 5: 13, 6: 21}[count]
    before, value = rng.randint(1, highest), rng.randint(1, highest)
    ask = rng.choice(
        (
            "Each number is the sum of the two before it. Start with {} and {}. Write {} more.",
            "A series starts with {} and {}. Each next number adds the last two. Find {} more.",
        )
    )
    prompt = ask.format(before, value, count)
    lines: list[str] = []
    for _ in range(count):
        lines.append(f"{before} + {value} = {before + value}")
        before, value = value, before + value
    return prompt, _closed("; ".join(lines), value)


def steady_steps(rng: Random) -> tuple[str, str]:
    """The same step taken several times."""
    times, step = rng.randint(3, 7), rng.randint(2, 20)
    down = rng.random() < 0.5
    value = rng.randint(times * step if down else 0, TOP if down else TOP - times * step)
    verb, sign = ("subtract", "-") if down else ("add", "+")
    ask = rng.choice(
        (
            "Start with {} and {} {} exactly {} times.",
            "Begin at {} and {} {} again and again, {} times in all.",
        )
    )
    prompt = ask.format(value, verb, step, times)
    lines: list[str] = []
    for _ in range(times):
        result = _apply(value, sign, step)
        lines.append(f"{value} {sign} {step} = {result}")
        value = result
    return prompt, _closed("; ".join(lines), value)


def long_totals(rng: Random) -> tuple[str, str]:
    """Eight to twelve numbers, and the total after each of them."""
    terms = [rng.randint(1, 16) for _ in range(rng.randint(*LONG))]
    ask = rng.choice(
        (
            "Write the running totals of {}.",
            "Write the total after each of the numbers {}.",
            "List the sums so far of {}.",
        )
    )
    return ask.format(", ".join(map(str, terms))), _results(terms)


def long_walk(rng: Random) -> tuple[str, str]:
    """A number that goes up and down eight to twelve times."""
    start = value = rng.randint(1, 60)
    moves: list[int] = []
    for _ in range(rng.randint(*LONG)):
        low = value < 20 or (value < 160 and rng.random() < 0.5)
        moves.append(rng.randint(1, 20) * (1 if low else -1))
        value += moves[-1]
    ask = rng.choice(
        (
            "Start at {} and go {}. Write every number that you reach.",
            "From {} take the steps {}. Write where each one ends.",
            "A counter shows {} and changes by {}. Write each new value.",
        )
    )
    steps = ", ".join(f"{move:+d}" for move in moves)
    return ask.format(start, steps), _results([start + moves[0], *moves[1:]])


def _results(terms: list[int]) -> str:
    return ", ".join(map(str, accumulate(terms))) + "."


def _walk(rng: Random, length: int) -> tuple[int, list[tuple[str, int]]]:
    start = rng.randint(1, 30)
    links: list[tuple[str, int]] = []
    value = start
    for _ in range(length - 1):
        sign, operand = _link(rng, value)
        links.append((sign, operand))
        value = _apply(value, sign, operand)
    return start, links


def _link(rng: Random, value: int) -> tuple[str, int]:
    sign = rng.choice("++--*")
    if sign == "*" and 1 <= value <= 12:
        return "*", rng.randint(2, 9)
    # A large value goes down, a small one goes up, and in between the sign decides.
    if value >= 160 or (sign == "-" and value >= 3):
        return "-", rng.randint(1, min(60 if value >= 100 else 30, value))
    return "+", rng.randint(1, 30)


def _apply(value: int, sign: str, operand: int) -> int:
    if sign == "*":
        return value * operand
    return value + operand if sign == "+" else value - operand


def _length(rng: Random) -> int:
    return rng.choices(LENGTHS, LENGTH_SHARES)[0]


def _closed(lines: str, value: int) -> str:
    return f"{lines}. The answer is {value}."


FAMILIES: tuple[Callable[[Random], tuple[str, str]], ...] = (
    letters,
    letters,
    machine,
    machine,
    running_total,
    two_before,
    steady_steps,
    long_totals,
    long_walk,
)
