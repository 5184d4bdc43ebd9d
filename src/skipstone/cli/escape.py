r"""Text from prompts, models and traces is not trusted: it must not steer a terminal.

Whatever a command prints goes through here once, in ``terminal``. What a person cannot see, or what
moves what they see, is written as an escape such as ``\x1b`` or ``\u202e``.
"""

from __future__ import annotations

import json
import math
import unicodedata

from skipstone.quoting import LONGEST_MESSAGE, within

# Invisible, though Unicode calls them letters or marks: fillers, joiners, selectors of variants.
_INVISIBLE = frozenset(
    map(
        chr,
        (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *range(0x180B, 0x1810)),
    )
) | frozenset(map(chr, (*range(0xFE00, 0xFE0E), *range(0xE0100, 0xE01F0))))


def printable(text: str) -> str:
    r"""Text on one line; every control, format or invisible character as an escape."""
    return readable(text.replace("\r\n", " ").replace("\n", " ").replace("\t", " "))


def readable(text: str) -> str:
    r"""The same with its line breaks and tabs, for text that is printed as it stands."""
    if text.isascii() and text.isprintable():
        return text
    lines = text.replace("\r\n", "\n")
    return "".join(c if _harmless(c) else _escaped(c) for c in lines)


def _harmless(character: str) -> bool:
    if character.isprintable():
        return character not in _INVISIBLE
    # Wide and narrow blanks are ordinary in Chinese and French.
    return character in "\n\t" or unicodedata.category(character) == "Zs"


def _escaped(character: str) -> str:
    r"""A character as ``\x1b``, ``\u202e`` or ``\U000e0041``."""
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shortened(text: str, width: int = 88) -> str:
    """Printable text, cut where it is longer than ``width``."""
    line = printable(text)
    return line if len(line) <= width else f"{line[: width - 1]}…"


def bounded(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """Printable text on one line of at most ``longest`` characters."""
    return within(printable(" ".join(text.split())), longest)


def json_text(value: object, encoding: str = "utf-8") -> str:
    r"""JSON on one line, in which whatever may not be printed is an escape such as ``\u202e``.

    A number that is not finite, which JSON does not know, is null.
    """
    text = json.dumps(_finite(value), ensure_ascii=False)
    return "".join(c if _harmless(c) and _fits(c, encoding) else _json_escape(c) for c in text)


def _json_escape(character: str) -> str:
    return json.dumps(character)[1:-1] if ord(character) > 0x7F else f"\\u{ord(character):04x}"


def _fits(character: str, encoding: str) -> bool:
    if character.isascii():
        return True
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
