"""What a recorder saw in passing, read back from its one line into a sentence.

Events are kept in traces as text. Their shapes are known, so that a report can say them in another
language; text of another shape is quoted as it is.
"""

from __future__ import annotations

import re
from functools import cache

from skipstone.sentence import Code, Sentence

_GAP = re.compile(r"\{(\w+)\}")

SHAPES = (
    "{beginning}, at equal positions it is {similarity}",
    "{beginning}; their similarity is {similarity}",
    "{beginning} and {count} more such pairs",
    "{operation} takes the row of position {a} with that of position {b}",
    "the call puts its {rows} rows at positions {first} to {last} (by {source}), but their ids are "
    "those of positions {true_first} to {true_last} of the canvas",
    "the call was given masks at {old} of its {rows} rows where the canvas has tokens already, the "
    "first at position {position}: ids of the step before",
    "the loop writes token {token} over token {old} of the prompt at position {position}; {count} "
    "tokens of the prompt are other ones from here on",
    "{name} was stated as {meant}, but the run received {value}",
    "the ids stand at position {a} and following in the canvas, and {argument} says {b} and "
    "following",
    "{operation} in {dtype}, which below 1 has steps of {step}: it gave {computed} where float32 "
    "gives {exact}; {differing} of {pairs} values are not even the exact ones rounded",
    "forward {forward} runs the step of forward {first} again, but not from the same state: "
    "{changed} of {total} cache tensors were overwritten in place since forward {began} began; "
    "give each call its own copy of the cache",
)  # fmt: skip
"""Templates of events, the outermost first; a ``beginning`` has a shape of its own."""


def event_sentence(message: str) -> Sentence:
    """The sentence that an event was written as."""
    for template in SHAPES:
        found = _pattern(template).fullmatch(message)
        if found:
            values = {
                name: event_sentence(text) if name == "beginning" else Code(text)
                for name, text in found.groupdict().items()
            }
            return Sentence(template, **values)
    return Sentence("{quoted}", quoted=Code(message))


_WRITES = ("setitem", "index_put", "index_copy", "scatter", "masked_scatter", "copy")


def writes(message: str) -> bool:
    """Whether rows were seen in an operation that stores them, not one that compares them."""
    return message.partition(" ")[0].rstrip("_") in _WRITES


def chooses(message: str) -> bool:
    """Whether rows were seen in an operation that takes one or the other: no more is known."""
    return message.partition(" ")[0] == "where"


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """What matches a template with anything in its gaps."""
    parts = _GAP.split(template)
    return re.compile(
        "".join(f"(?P<{part}>.+)" if i % 2 else re.escape(part) for i, part in enumerate(parts)),
        re.DOTALL,
    )
