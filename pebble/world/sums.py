"""Arithmetic of one line: what pebble can do, and what is too large for it."""

import operator
from random import Random

from pebble.world.wording import casual, dressed

# Whole numbers of up to this size are added, subtracted and multiplied.
MOST_ADDED = 99
MOST_MULTIPLIED = 12
DRESSED_SHARE = 0.12

_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
NUMBERS = _NUMBERS.split()

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}

# What stands around a sum; the sign is said in one of the ways below.
ASK = (
    "What is {}?",
    "What's {}?",
    "Compute {}.",
    "Calculate {}.",
    "How much is {}?",
    "What do you get for {}?",
    "{}",
    "{} = ?",
    "{} =",
    "{}?",
    "Work out {}.",
    "Tell me what {} is.",
    "Can you compute {}?",
    "What does {} equal?",
    "What does {} make?",
    "Solve {}.",
    "Give me {}.",
    "What is the result of {}?",
    "What is the value of {}?",
    "How many is {}?",
)
SIGNS = {
    "+": ("{} + {}", "{} + {}", "{} plus {}", "{}+{}", "{} and {} together"),
    "-": ("{} - {}", "{} - {}", "{} minus {}", "{}-{}", "{} take away {}"),
    "*": ("{} * {}", "{} * {}", "{} times {}", "{}*{}", "{} x {}", "{} multiplied by {}"),
    "/": ("{} / {}", "{} divided by {}", "{}/{}", "{} over {}"),
}
SENTENCES = {
    "+": ("Add {} and {}.", "What is the sum of {} and {}?", "Add {} to {}."),
    "-": ("What is the difference of {} and {}?", "Start with {} and take away {}."),
    "*": ("Multiply {} by {}.", "What is the product of {} and {}?", "Multiply {} and {}."),
    "/": ("Divide {} by {}.",),
}


def one_line_sums(rng: Random) -> tuple[str, str]:
    """A sum, a difference, a product or an even division of small numbers."""
    sign = rng.choice("++--**/")
    if sign in "+-":
        left, right = (rng.randint(0, MOST_ADDED) for _ in "lr")
        # Small numbers are asked for most.
        if rng.random() < 0.4:
            left, right = (rng.randint(0, 20) for _ in "lr")
        if sign == "-" and left < right:
            left, right = right, left
    else:
        left, right = (rng.randint(1, MOST_MULTIPLIED) for _ in "lr")
    if sign == "/":
        left *= right
    result = OPERATORS[sign](left, right)
    prompt = _asked(rng, sign, left, right)
    if rng.random() < DRESSED_SHARE:
        prompt = dressed(rng, prompt)
    return casual(rng, prompt), f"{left} {sign} {right} = {result}."


def too_large(rng: Random) -> str:
    """A question of the same forms with larger numbers, which pebble has to refuse."""
    sign = rng.choice("++--**/")
    fewest = 20 if sign == "*" else 200
    most = 10 ** rng.randint(3, 6)
    left, right = rng.randint(fewest, most), rng.randint(fewest, most)
    if sign == "*" and rng.random() < 0.4:
        left, right = rng.randint(20, 99), rng.randint(20, 99)
    if sign in "+-" and rng.random() < 0.3:
        left, right = rng.sample((left, rng.randint(1, 99)), 2)
    return _asked(rng, sign, left, right)


def _asked(rng: Random, sign: str, left: int, right: int) -> str:
    in_words = max(left, right) <= 20 and rng.random() < 0.25
    said = [NUMBERS[value] if in_words else str(value) for value in (left, right)]
    # "Add 3 to 5" begins with the 5 for some; both readings give the same sum.
    if rng.random() < 0.2:
        prompt = rng.choice(SENTENCES[sign]).format(*said)
    else:
        prompt = rng.choice(ASK).format(rng.choice(SIGNS[sign]).format(*said))
    return prompt[0].upper() + prompt[1:]
