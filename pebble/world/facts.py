"""True facts, kept as tables in knowledge/*.toml, and the ways in which they are asked for."""

import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pebble.world.problem import Problem

KNOWLEDGE = Path(__file__).parent / "knowledge"


class Topic(NamedTuple):
    """How the rows of one table become questions and answers."""

    table: str
    questions: tuple[str, ...]
    answer: str = "{answer}"


TOPICS = (
    Topic(
        "scientists",
        (
            "Who is {short}, {field}?",
            "Who was {short}, {field}?",
            "Who is {name}?",
            "Who was {name}?",
            "Tell me about {name}.",
            "What is {name} known for?",
            "Why is {name} famous?",
            "Who is {short}?",
        ),
    ),
    Topic(
        "elements",
        (
            "What is the chemical symbol of {name}?",
            "What is the atomic number of {name}?",
            "Which element has the symbol {symbol}?",
            "Which element has the atomic number {number}?",
            "Tell me about the element {name}.",
            "What is {name}?",
        ),
        "The element {name} has the symbol {symbol} and the atomic number {number}. It is {kind}.",
    ),
    Topic(
        "capitals",
        (
            "What is the capital of {country}?",
            "Which city is the capital of {country}?",
            "{capital} is the capital of which country?",
            "Name the capital of {country}.",
            "What is the capital city of {country}?",
            "Capital of {country}?",
        ),
        "The capital of {country} is {capital}. The country lies in {region}.",
    ),
    Topic(
        "currencies",
        (
            "What is the currency of {country}?",
            "Which currency is used in {country}?",
            "Which money do people use in {country}?",
            "Name the currency of {country}.",
            "What do people in {country} pay with?",
        ),
        "People in {country} pay with the {currency}. It is the official currency of {country}.",
    ),
    Topic(
        "planets",
        (
            "Tell me about the planet {name}.",
            "Which planet is the {order} from the Sun?",
            "Where is the planet {name} in the solar system?",
            "What is special about the planet {name}?",
            "What is the {order} planet from the Sun?",
        ),
        "{name} is the {order} planet from the Sun. {note}",
    ),
    Topic(
        "animals",
        (
            "What is the young of {one} called?",
            "What do you call the young of {one}?",
            "What is the word for the young of {one}?",
            "What is the baby of {one} called?",
            "Name the young of {one}.",
        ),
        "The young of {one} is called {young}. {note}",
    ),
    Topic(
        "inventions",
        (
            "Who invented {thing}?",
            "Who was the inventor of {thing}?",
            "Where does {thing} come from?",
            "Who is behind the invention of {thing}?",
            "Tell me who made {thing} first.",
        ),
    ),
    Topic(
        "notions",
        (
            "What is {what}?",
            "Explain what {what} is.",
            "Tell me what {what} is.",
            "What is meant by {what}?",
            "Give a definition of {what}.",
        ),
    ),
    Topic(
        "geography",
        (
            "Tell me about {place}.",
            "Where is {place}?",
            "What do you know about {place}?",
            "What is special about {place}?",
            "Describe {place}.",
            "What is {place}?",
        ),
    ),
)

# The first wrapper leaves the question bare; a bare question is always trained.
WRAPPERS = (
    "{}",
    "Question: {}",
    "Please help me. {}",
    "{} Please answer.",
    "I have a question. {}",
    "Quiz time! {}",
)


# These are never held out; they teach that something may follow the question.
TRAINED_WRAPPERS = ("{} Thank you.", "{} Please tell me.", "{} Answer in one or two sentences.")


class Fact(NamedTuple):
    """One fact with its trained and its held-out phrasings."""

    topic: str
    answer: str
    trained: tuple[str, ...]
    heldout: tuple[str, ...]


@cache
def facts() -> tuple[Fact, ...]:
    """Read every table once; the order is that of the topics and of the files."""
    return tuple(
        _fact(topic, row, number)
        for topic in TOPICS
        for number, row in enumerate(rows(topic.table))
    )


def trained_problems() -> list[Problem]:
    """List every trained phrasing of every fact."""
    return [_problem(fact, prompt) for fact in facts() for prompt in fact.trained]


def heldout_problems() -> list[Problem]:
    """List every phrasing that is never trained."""
    return [_problem(fact, prompt) for fact in facts() for prompt in fact.heldout]


def rows(table: str) -> list[dict[str, str]]:
    """Read one table of facts."""
    with (KNOWLEDGE / f"{table}.toml").open("rb") as file:
        return tomllib.load(file)["facts"]


def _fact(topic: Topic, row: dict[str, str], row_number: int) -> Fact:
    trained: dict[str, None] = {}
    heldout: dict[str, None] = {}
    for number, question in enumerate(topic.questions):
        for place, wrapper in enumerate(WRAPPERS):
            prompt = wrapper.format(question.format(**row))
            side = heldout if _withheld(number, place, row_number) else trained
            side[prompt] = None
        for wrapper in TRAINED_WRAPPERS:
            trained[wrapper.format(question.format(**row))] = None
    # Somebody with a single name is asked for twice in the same words.
    apart = tuple(prompt for prompt in heldout if prompt not in trained)
    return Fact(topic.table, topic.answer.format(**row), tuple(trained), apart)


def _withheld(question: int, wrapper: int, row: int) -> bool:
    # A diagonal of the pairs of question and wrapper is withheld, each pair from every other row,
    # so that every pair is trained somewhere and every fact has phrasings that are not.
    return wrapper > 0 and (question + wrapper) % 4 == 1 and (wrapper + row) % 2 == 0


def _problem(fact: Fact, prompt: str) -> Problem:
    return Problem("facts", fact.topic, prompt, fact.answer)
