"""Sentences that keep what they were made of, so that they can be said in another language."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce


class Sentence(str):
    """English text, with the template and the values that it was formatted from.

    It is a text like any other, for terminals, JSON and comparison. A report looks its template up
    among those of another language, and fills in the same values; a value may be a sentence too.

    Example:
        ``Sentence("{rows} rows skip at layer {layer}", rows=3, layer=18)``
    """

    template: str
    values: dict[str, object]

    def __new__(cls, template: str, /, **values: object) -> Sentence:
        """Format a template.

        Args:
            template: as for ``str.format``, in English.
            values: what fills its gaps, by name.
        """
        made = super().__new__(cls, template.format(**values))
        made.template, made.values = template, values
        return made

    def naming(self, token: Callable[[int], str]) -> Sentence:
        """The same sentence with tokens as ``token`` shows them."""

        def named(value: object) -> object:
            if isinstance(value, TokenId):
                return Code(token(value))
            return value.naming(token) if isinstance(value, Sentence) else value

        return Sentence(self.template, **{name: named(v) for name, v in self.values.items()})

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, object]]:
        return (self.template,), self.values


class TokenId(int):
    """A token in a sentence, which whoever has its tokenizer shows as text."""


NOTHING = Sentence("")
"""Where there is nothing to say."""


class Code(str):
    """A value that no language translates: a command, a setting, a place in a file."""


def counted(number: int, noun: str) -> str:
    """A number of things: ``1 step``, ``2 steps``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def after_end(rest: Sequence[object]) -> str:
    """What follows the text of an answer, as one mark; empty if nothing does.

    Args:
        rest: the tokens from the first EOS on.
    """
    if not rest:
        return ""
    what = "EOS" if all(token == rest[0] for token in rest) else "from EOS on"
    return f"+ {len(rest)} {what}"


def listed(sentences: Iterable[Sentence]) -> Sentence:
    """Several sentences as one, parted by semicolons; those that say nothing are left out."""
    said = [sentence for sentence in sentences if sentence]
    return reduce(lambda a, b: Sentence("{first}; {then}", first=a, then=b), said or [NOTHING])
