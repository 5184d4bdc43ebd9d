"""Questions that lie outside of the world; the tables are knowledge/outside*.toml.

Training draws from `outside.toml` and `outside_words.toml`. The held-out side is
`outside_heldout.toml`, whose sentences, forms and words training never sees.
"""

import re
import tomllib
from collections.abc import Callable
from functools import cache
from random import Random
from string import ascii_lowercase

from pebble.world.facts import KNOWLEDGE, WRAPPERS, rows
from pebble.world.people import PEOPLE
from pebble.world.sums import too_large
from pebble.world.wording import casual, dressed, misspelt

ANSWER = "I do not know that."

# How often each kind of question is drawn. Pebble's own forms about what it does not know are the
# hardest to tell from what it does.
SHARES = {
    "near": 26,
    "beside": 16,
    "maths": 10,
    "lists": 6,
    "writing": 8,
    "living": 10,
    "knowledge": 10,
    "computing": 5,
    "grammar": 16,
    "foreign": 9,
}
DRESSED_SHARE = 0.25
RAMBLING_SHARE = 0.06
MISSPELT_SHARE = 0.06
RAMBLING = ("living", "grammar", "grammar", "knowledge", "writing")
# A letter of another script takes up to four tokens, so what counts is the length in bytes.
MOST_BYTES = 250

SLOT = re.compile(r"\{(\w+)\}")
SYMBOLS = "!?.,;:-_+*#&%$@/\\|<>()[]{}^~'\""


def question(rng: Random) -> str:
    """Draw one question of training."""
    kind = rng.choices(tuple(SHARES), tuple(SHARES.values()))[0]
    text = filled(rng, rng.choice(_forms()[kind]), training_words())
    if rng.random() < RAMBLING_SHARE:
        text = _rambling(rng, text)
    if len(text) > 12 and rng.random() < MISSPELT_SHARE:
        text = misspelt(rng, text)
    # "Hello. ?" would be a greeting.
    if any(map(str.isalnum, text)) and rng.random() < DRESSED_SHARE:
        text = rng.choice(WRAPPERS).format(text) if rng.random() < 0.4 else dressed(rng, text)
    return _cut(casual(rng, text))


def filled(rng: Random, form: str, words: dict[str, tuple[str, ...]]) -> str:
    """Put a word into every slot of a form."""

    def word(slot: re.Match[str]) -> str:
        name = slot[1]
        # Some words, such as a line of code, have slots of their own.
        return filled(rng, rng.choice(words[name]), words) if name in words else MADE[name](rng)

    # Doubled braces are braces of the text.
    text = SLOT.sub(word, form.replace("{{", "\0").replace("}}", "\1"))
    return text.replace("\0", "{").replace("\1", "}")


@cache
def heldout_questions() -> tuple[str, ...]:
    """Every held-out question: each form with a few of its words, and the plain sentences."""
    forms, words = questions_in("outside_heldout"), words_in("outside_heldout")
    rng = Random("outside heldout")
    drawn = (filled(rng, form, words) for form in forms["asked"] + forms["free"] for _ in range(6))
    return tuple(dict.fromkeys((*drawn, *forms["plain"])))


@cache
def _forms() -> dict[str, list[str]]:
    return questions_in("outside")


@cache
def training_words() -> dict[str, tuple[str, ...]]:
    """The words of training by slot, pebble's own among them."""
    words = words_in("outside_words") | words_in("outside")
    own = tuple(person.name for person in PEOPLE)
    return words | _known() | {"first": own + words["first"]}


def _known() -> dict[str, tuple[str, ...]]:
    """What pebble knows, to be asked for in ways that its tables do not answer."""
    capitals = [row["country"] for row in rows("capitals")]
    currencies = [row["country"] for row in rows("currencies")]
    return {
        "known_country": tuple(dict.fromkeys(capitals + currencies)),
        "capital_only": tuple(country for country in capitals if country not in currencies),
        "currency_only": tuple(country for country in currencies if country not in capitals),
        "known_person": tuple(row["name"] for row in rows("scientists")),
        "known_short": tuple(row["short"] for row in rows("scientists")),
        "known_element": tuple(row["name"] for row in rows("elements")),
        "known_animal": tuple(row["one"] for row in rows("animals")),
        "known_thing": tuple(row["thing"] for row in rows("inventions")),
        "known_place": tuple(row["place"] for row in rows("geography")),
        "known_planet": tuple(row["name"] for row in rows("planets")),
    }


def questions_in(table: str) -> dict[str, list[str]]:
    """The questions of a table by kind."""
    with (KNOWLEDGE / f"{table}.toml").open("rb") as file:
        return tomllib.load(file)["questions"]


def words_in(table: str) -> dict[str, tuple[str, ...]]:
    """The words of a table by slot."""
    with (KNOWLEDGE / f"{table}.toml").open("rb") as file:
        lists: dict[str, str] = tomllib.load(file)["words"]
    return {name: tuple(w.strip() for w in text.split(";")) for name, text in lists.items()}


def _cut(text: str) -> str:
    """Shorten a text that is too long, at a space where there is one."""
    if len(text.encode()) <= MOST_BYTES:
        return text
    short = text.encode()[:MOST_BYTES].decode(errors="ignore")
    return short.rsplit(" ", 1)[0] if " " in short else short


def _rambling(rng: Random, text: str) -> str:
    """Say a few other things before and after."""
    around = [
        filled(rng, rng.choice(_forms()[rng.choice(RAMBLING)]), training_words())
        for _ in range(rng.randint(1, 5))
    ]
    place = rng.randint(0, len(around))
    joint = rng.choice((" ", " ", " ", " and ", ", but ", ", so ", "\n"))
    return joint.join((*around[:place], text, *around[place:]))


def _invented(rng: Random) -> str:
    words = training_words()
    name = "".join(rng.choice(words["syllable"]) for _ in range(rng.randint(1, 3)))
    if rng.random() < 0.5 or len(name) < 4:
        name += rng.choice(words["ending"])
    return name.capitalize()


def _namesake(rng: Random) -> str:
    """Somebody who shares only the last name with a scientist."""
    words = training_words()
    while True:
        name = f"{rng.choice(words['first'])} {rng.choice(words['known_short'])}"
        if name not in words["known_person"]:
            return name


def _letters(rng: Random, fewest: int, most: int) -> str:
    return "".join(rng.choice(ascii_lowercase) for _ in range(rng.randint(fewest, most)))


def _keys(rng: Random) -> str:
    """A hand that slides over the keys, or rests on one."""
    line = rng.choice(("qwertyuiop", "asdfghjkl", "zxcvbnm", "1234567890"))
    start = rng.randrange(len(line) - 2)
    piece = line[start : start + rng.randint(2, 6)]
    return rng.choice((piece, piece[::-1], piece * 2, piece[0] * rng.randint(3, 9)))


def _mixed(rng: Random) -> str:
    """Words without an order."""
    words = training_words()
    kinds = ("noun", "verb", "adj", "plural", "noun", "profession", "city", "topic", "relation")
    return " ".join(rng.choice(words[rng.choice(kinds)]) for _ in range(rng.randint(2, 14)))


def _decimal(rng: Random) -> str:
    return f"{rng.randint(0, 99)}.{rng.randint(1, 99)}"


# Slots that no list fills.
MADE: dict[str, Callable[[Random], str]] = {
    "invented": _invented,
    "invented_small": lambda rng: _invented(rng).lower(),
    "namesake": _namesake,
    "gibberish": lambda rng: _letters(rng, 4, 12),
    "keys": _keys,
    "mixed": _mixed,
    "symbols": lambda rng: "".join(rng.choice(SYMBOLS) for _ in range(rng.randint(1, 12))),
    "too_large": too_large,
    "letter": lambda rng: rng.choice(ascii_lowercase).upper(),
    "digit": lambda rng: str(rng.randint(2, 9)),
    "num": lambda rng: str(rng.randint(2, rng.choice((20, 99, 999)))),
    "big": lambda rng: str(rng.randint(10**3, 10 ** rng.randint(4, 6))),
    "bignum": lambda rng: str(rng.randint(10**5, 10 ** rng.randint(6, 12))),
    "bad_number": lambda rng: str(rng.randint(119, 999)),
    "decimal": _decimal,
    "year": lambda rng: str(rng.randint(1000, 2030)),
    "hex": lambda rng: f"{rng.randrange(16**6):06x}",
}
