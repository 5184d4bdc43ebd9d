"""How people write: what they put around a question, and how carelessly they type."""

from random import Random

OPENINGS = (
    "Please tell me: {}", "Hey Pebble, {}", "Quick question: {}", "Tell me: {}", "Excuse me, {}",
    "I was wondering: {}", "Can you answer this? {}", "Just curious: {}", "Help me out here. {}",
    "One more question. {}", "So, {}", "Well, {}", "Okay, {}", "Hello. {}", "Hi! {}", "Q: {}",
    "My teacher asks: {}", "Pebble, {}", "Now tell me, {}", "Sorry, {}", "Next question: {}",
)  # fmt: skip
CLOSINGS = (
    "{} Thank you.", "{} Please tell me.", "{} Please answer.", "{} Thanks!", "{} I need to know.",
    "{} Answer in one or two sentences.", "{} Be brief.", "{} Any idea?", "{} Please help.",
    "{} Do you know?", "{} Explain.", "{} It is urgent.", "{} Just asking.",
    "{} Thanks in advance.",
)  # fmt: skip


def dressed(rng: Random, question: str) -> str:
    """Put something before or behind a question."""
    return rng.choice(OPENINGS + CLOSINGS).format(question)


def casual(rng: Random, text: str) -> str:
    """Type a text with or without care for capitals and for the sign at its end."""
    ending = text[-1] if text[-1] in ".?!" else ""
    body = text[: len(text) - len(ending)]
    chance = rng.random()
    if chance < 0.3:
        ending = rng.choice(("", "", "!", "?", ".", "??", "!!", "...", " ?"))
    if rng.random() < 0.25:
        body = rng.choice((body.lower(), body.lower(), body.lower(), body.upper()))
    return body + ending


def misspelt(rng: Random, text: str) -> str:
    """Swap, drop or double a few letters."""
    letters = list(text)
    for _ in range(rng.randint(1, 1 + len(text) // 15)):
        place = rng.randrange(len(letters))
        change = rng.randrange(4)
        if change == 0 and place:
            letters[place - 1], letters[place] = letters[place], letters[place - 1]
        elif change == 1 and len(letters) > 2:
            del letters[place]
        elif change == 2:
            letters[place] *= 2
        else:
            letters[place] = rng.choice("abcdefghijklmnopqrstuvwxyz")
    return "".join(letters).strip() or text
