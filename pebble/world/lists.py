"""Problems about short lists: sorting, reversing, counting, copying and picking."""

from collections.abc import Callable, Sequence
from random import Random

_WORDS = (
    "apple bread candle desk eagle flower garden hammer island jacket kettle lemon mirror "
    "needle orange pencil queen river stone table umbrella violin window yellow zebra anchor "
    "bottle castle dragon engine forest glass honey iron jewel king ladder moon nest ocean "
    "paper rabbit silver tiger valley water"
)
WORDS = tuple(_WORDS.split())

MOST_ITEMS = 8
# Beyond these lengths the model that was trained errs too often to measure shortcuts with; it was
# trained on lists up to 7 and 8 items all the same.
MOST_COUNTED = 4
MOST_SORTED_WORDS = 6


def sort_up(rng: Random) -> tuple[str, str]:
    """Numbers from small to large."""
    items = _numbers(rng)
    ask = rng.choice(
        (
            "Sort the numbers {} from smallest to largest.",
            "Put {} in ascending order.",
            "Arrange these numbers in increasing order: {}.",
        )
    )
    return ask.format(_row(items)), f"In ascending order: {_row(sorted(items))}."


def sort_down(rng: Random) -> tuple[str, str]:
    """Numbers from large to small."""
    items = _numbers(rng)
    ask = rng.choice(
        (
            "Sort the numbers {} from largest to smallest.",
            "Put {} in descending order.",
            "Arrange these numbers in decreasing order: {}.",
        )
    )
    return ask.format(_row(items)), f"In descending order: {_row(sorted(items, reverse=True))}."


def sort_words(rng: Random) -> tuple[str, str]:
    """Words from A to Z."""
    items = _words(rng, MOST_SORTED_WORDS)
    ask = rng.choice(
        (
            "Sort the words {} from A to Z.",
            "Put {} in alphabetical order.",
            "Arrange these words like a dictionary: {}.",
        )
    )
    return ask.format(_row(items)), f"In alphabetical order: {_row(sorted(items))}."


def reverse(rng: Random) -> tuple[str, str]:
    """A list from back to front."""
    items = _either(rng)
    ask = rng.choice(
        (
            "Reverse the list {}.",
            "Write {} backwards, item by item.",
            "Say this list from back to front: {}.",
        )
    )
    return ask.format(_row(items)), f"In reverse order: {_row(items[::-1])}."


def copy(rng: Random) -> tuple[str, str]:
    """A list as it is."""
    items = _either(rng)
    ask = rng.choice(
        (
            "Copy the list {}.",
            "Repeat after me: {}.",
            "Write this list down once more: {}.",
        )
    )
    return ask.format(_row(items)), f"The list is: {_row(items)}."


def count_items(rng: Random) -> tuple[str, str]:
    """How long a list is."""
    items = _either(rng)
    ask = rng.choice(
        (
            "How many items are in the list {}?",
            "Count the items: {}.",
            "How long is this list: {}?",
        )
    )
    tally = ", ".join(f"{place} {item}" for place, item in enumerate(items, start=1))
    return ask.format(_row(items)), f"Counting: {tally}. The list has {len(items)} items."


def count_word(rng: Random) -> tuple[str, str]:
    """How often one word occurs."""
    kinds = rng.sample(WORDS, 3)
    items = [rng.choice(kinds) for _ in range(rng.randint(3, MOST_COUNTED))]
    wanted = kinds[0]
    ask = rng.choice(
        (
            "How many times does {1} occur in {0}?",
            "Count the word {1} in this list: {0}.",
            "In the list {0}, how often do you see {1}?",
        )
    )
    found = items.count(wanted)
    times = "1 time" if found == 1 else f"{found} times"
    # The count so far stands behind every item, so that the last one is the answer.
    tally = ", ".join(f"{item} {items[: i + 1].count(wanted)}" for i, item in enumerate(items))
    return (
        ask.format(_row(items), wanted),
        f"Counting {wanted}: {tally}. The word {wanted} occurs {times} in the list.",
    )


def extremes(rng: Random) -> tuple[str, str]:
    """The smallest and the largest number."""
    items = _numbers(rng)
    ask = rng.choice(
        (
            "What are the smallest and the largest number in {}?",
            "Find the minimum and the maximum of {}.",
        )
    )
    return (
        ask.format(_row(items)),
        f"The smallest number is {min(items)} and the largest number is {max(items)}.",
    )


def _numbers(rng: Random) -> list[int]:
    return rng.sample(range(100), rng.randint(3, MOST_ITEMS))


def _words(rng: Random, most: int = MOST_ITEMS) -> list[str]:
    return rng.sample(WORDS, rng.randint(3, most))


def _either(rng: Random) -> list[int] | list[str]:
    return _numbers(rng) if rng.random() < 0.5 else _words(rng)


def _row(items: Sequence[int] | Sequence[str]) -> str:
    return ", ".join(map(str, items))


FAMILIES: tuple[Callable[[Random], tuple[str, str]], ...] = (
    sort_up,
    sort_down,
    sort_words,
    reverse,
    copy,
    count_items,
    count_word,
    extremes,
)
