"""The people of the word problems, with the pronouns that go with their names."""

from random import Random
from typing import NamedTuple


class Person(NamedTuple):
    """A first name and its pronoun, in lower case."""

    name: str
    pronoun: str

    @property
    def start(self) -> str:
        """The pronoun at the start of a sentence."""
        return self.pronoun.capitalize()


_SHE = "Lily Anna Emma Mia Nora Zoe Clara Ruth Sara Julia Maria Alice Grace Hanna Ivy"
_HE = "Tom Ben Leo Max Noah Paul Omar Sam Jack Felix Peter David Oscar Hugo Adam"

PEOPLE = (
    *(Person(name, "she") for name in _SHE.split()),
    *(Person(name, "he") for name in _HE.split()),
)


def someone(rng: Random) -> Person:
    """Draw one person."""
    return rng.choice(PEOPLE)


def two(rng: Random) -> tuple[Person, Person]:
    """Draw two different people."""
    first, second = rng.sample(PEOPLE, 2)
    return first, second
