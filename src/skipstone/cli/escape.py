"""Text from prompts, models and traces is not trusted: it must not steer a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Text on one line; every control character as an escape such as ``\x1b``."""
    spaced = text.replace("\n", " ").replace("\t", " ")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in spaced)


def shortened(text: str, width: int = 88) -> str:
    """Printable text, cut where it is longer than ``width``."""
    line = printable(text)
    return line if len(line) <= width else f"{line[: width - 1]}…"
