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
SYLLABLES = (
    "ba bel bor bra cal chi cor dra del du el en fa fen fi gal gor gri ha hel ix ja jor ka kel kri "
    "la lin lo lum ma mer mo na nel nor o or os pa per pi qua que ra ren ro sa sel shi sto ta tel "
    "tho tri u ul va vel vor wa wen xa xi ya yor za zen zu"
).split()
ENDINGS = (
    "ia land stan ton ville ium ic er ov ski son ez ini ous ara ond ax us is ette berg".split()
)
SYMBOLS = "!?.,;:-_+*#&%$@/\\|<>()[]{}^~'\""
SYMBOLS_OF_ELEMENTS = (
    "Xx Qq Zz Jq Vt Bq Lz Aa Ww Yq Gx Dd Oo Pp Jj Kk Ee Hh Uq Mz Fx Qz Rr Tx Wq".split()
)
ORDINALS = "ninth tenth eleventh twelfth thirteenth fifteenth twentieth hundredth zeroth".split()
FUNCTIONS = (
    "sin(x)", "cos(2x)", "e^x", "ln(x)", "x^2 + 1", "3x - 7", "1/x", "tan(x)", "sqrt(x)", "x^3 - x",
    "2^x", "x*y", "log(x)/x", "(x + 1)^2", "x e^x", "f(x) = 2x", "y = mx + b", "a^2 + b^2 = c^2",
)  # fmt: skip
CODE = (
    "x = [i for i in range({})]", "for i in range({}): print(i)", "int main() {{ return {}; }}",
    "let y = {};", "def f(x): return x + {}", "print('hello' * {})", "if (a == {}) {{ b++; }}",
    "lambda x: x * {}", "fn main() {{ println!(\"{}\"); }}", "public static void main(String[] args)",
    "while (x < {}) x++;", "var total = {};", "import numpy as np", "a = {{'b': {}}}", "return {}",
    "class Dog: pass", "npm install left-pad", "#include <stdio.h>", "echo $HOME", "try: x = {}",
)  # fmt: skip


def question(rng: Random) -> str:
    """Draw one question of training."""
    kind = rng.choices(tuple(SHARES), tuple(SHARES.values()))[0]
    text = filled(rng, rng.choice(_forms()[kind]), _words())
    if rng.random() < RAMBLING_SHARE:
        text = _rambling(rng, text)
    if rng.random() < MISSPELT_SHARE:
        text = misspelt(rng, text)
    if rng.random() < DRESSED_SHARE:
        text = rng.choice(WRAPPERS).format(text) if rng.random() < 0.4 else dressed(rng, text)
    return _cut(casual(rng, text))


def filled(rng: Random, form: str, words: dict[str, tuple[str, ...]]) -> str:
    """Put a word into every slot of a form."""

    def word(slot: re.Match[str]) -> str:
        name = slot[1]
        return rng.choice(words[name]) if name in words else MADE[name](rng)

    # Doubled braces are braces of the text.
    text = SLOT.sub(word, form.replace("{{", "\0").replace("}}", "\1"))
    return text.replace("\0", "{").replace("\1", "}")


@cache
def heldout_questions() -> tuple[str, ...]:
    """Every held-out question: each form with a few of its words, and the plain sentences."""
    content = _read("outside_heldout")
    words = _split(content["words"])
    rng = Random("outside heldout")
    forms = content["questions"]
    drawn = (filled(rng, form, words) for form in forms["asked"] + forms["free"] for _ in range(6))
    return tuple(dict.fromkeys((*drawn, *forms["plain"])))


def training_words() -> dict[str, tuple[str, ...]]:
    """The words of training by slot."""
    return _words()


@cache
def _forms() -> dict[str, list[str]]:
    content = _read("outside")
    return {kind: content[kind] for kind in SHARES}


@cache
def _words() -> dict[str, tuple[str, ...]]:
    words = _split(_read("outside_words")["words"] | _read("outside")["foreign_words"])
    return words | _known() | {"first": tuple(person.name for person in PEOPLE) + OTHER_FIRST}


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


def _read(table: str) -> dict[str, dict[str, str] | list[str]]:
    with (KNOWLEDGE / f"{table}.toml").open("rb") as file:
        return tomllib.load(file)


def _split(lists: dict[str, str]) -> dict[str, tuple[str, ...]]:
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
        filled(rng, rng.choice(_forms()[rng.choice(RAMBLING)]), _words())
        for _ in range(rng.randint(1, 5))
    ]
    place = rng.randint(0, len(around))
    joint = rng.choice((" ", " ", " ", " and ", ", but ", ", so ", "\n"))
    return joint.join((*around[:place], text, *around[place:]))


def _invented(rng: Random) -> str:
    name = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 3)))
    if rng.random() < 0.5 or len(name) < 4:
        name += rng.choice(ENDINGS)
    return name.capitalize()


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
    words = _words()
    kinds = ("noun", "verb", "adj", "plural", "noun", "profession", "city", "topic", "relation")
    return " ".join(rng.choice(words[rng.choice(kinds)]) for _ in range(rng.randint(2, 14)))


def _decimal(rng: Random) -> str:
    return f"{rng.randint(0, 99)}.{rng.randint(1, 99)}"


OTHER_FIRST = tuple(
    "John Mary James Linda Robert Susan Michael Karen William Lisa Richard Betty Joseph Sandra Kevin "
    "Laura Brian Emily Jose Carmen Luis Ahmed Fatima Yuki Hiroshi Wei Ling Ivan Olga Sven Ingrid "
    "Pierre Claire Marco Giulia Raj Priya Kofi Amara Igor Katya Lars Astrid Diego Elena".split()
)

# Slots that no list fills.
MADE: dict[str, Callable[[Random], str]] = {
    "invented": _invented,
    "invented_small": lambda rng: _invented(rng).lower(),
    "gibberish": lambda rng: _letters(rng, 2, 12),
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
    "big_ordinal": lambda rng: rng.choice(ORDINALS),
    "decimal": _decimal,
    "year": lambda rng: str(rng.randint(1000, 2030)),
    "hex": lambda rng: f"{rng.randrange(16**6):06x}",
    "function": lambda rng: rng.choice(FUNCTIONS),
    "code": lambda rng: rng.choice(CODE).format(rng.randint(1, 99)),
    "symbol_out": lambda rng: rng.choice(SYMBOLS_OF_ELEMENTS),
}
