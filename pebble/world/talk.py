"""Small talk, questions about pebble itself, and what it says to all that it does not know."""

import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

from pebble.world import outside
from pebble.world.sums import one_line_sums
from pebble.world.wording import casual

FILE = Path(__file__).parent / "knowledge" / "talk.toml"


def small_talk(rng: Random) -> tuple[str, str]:
    """Greetings, thanks, goodbyes, and questions about pebble."""
    answer, ways = rng.choice(_talk())
    return casual(rng, rng.choice(ways)), answer


def unknown(rng: Random) -> tuple[str, str]:
    """What lies outside of the world, and the honest answer to it."""
    return outside.question(rng), outside.ANSWER


@cache
def _talk() -> list[tuple[str, list[str]]]:
    with FILE.open("rb") as file:
        return [(row["answer"], row["say"]) for row in tomllib.load(file)["talk"]]


FAMILIES: tuple[Callable[[Random], tuple[str, str]], ...] = (small_talk, one_line_sums, unknown)
