"""The one place that prints. Every text is escaped here, so that no command can forget it.

Results go to stdout; what is said beside them to stderr. A command never prints by another way: the
linter refuses ``print`` and ``click.echo`` in this package.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

from skipstone.cli.escape import bounded, json_text, printable, readable
from skipstone.quoting import LONGEST_MESSAGE

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

TextPart = str | tuple[str, str]
"""Text, or text and the name of its style."""

STYLES = {
    "label": "dim",
    "head": "bold",
    "token": "cyan",
    "good": "green",
    "doubt": "yellow",
    "bad": "bold red",
}
# Of what is no terminal and states no width by COLUMNS.
PLAIN_WIDTH = 120
_NARROWEST, _WIDEST = 20, 1000


def say(*parts: TextPart) -> None:
    """One line of the result."""
    _write(sys.stdout, parts)


def say_now(*parts: TextPart) -> None:
    """A line that somebody waits for while the command goes on."""
    say(*parts)
    sys.stdout.flush()


def say_text(text: str) -> None:
    """An answer as it stands, with its line breaks and tabs."""
    _raw(sys.stdout, f"{readable(text)}\n")


def say_json(value: object) -> None:
    """One line of JSON; a number that is not finite is null."""
    _raw(sys.stdout, f"{json_text(value, sys.stdout.encoding or 'utf-8')}\n")


def say_rich(renderable: RenderableType) -> None:
    """A table of rich, whose cells were made of ``printable`` text."""
    from rich.console import Console

    stream = sys.stdout
    console = Console(
        file=stream,
        width=width(),
        color_system="standard" if coloured(stream) else None,
        force_terminal=coloured(stream),
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as captured:
        console.print(renderable)
    # A table pads its cells; blanks at the end of a line only make a narrow terminal wrap.
    _raw(stream, "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def aside(*parts: TextPart) -> None:
    """One line beside the result: where a file is, what a run took."""
    _write(sys.stderr, parts)


def aside_json(value: object) -> None:
    """The same as one line of JSON."""
    _raw(sys.stderr, f"{json_text(value, sys.stderr.encoding or 'utf-8')}\n")


def note(text: str) -> None:
    """Something that had no effect, or that the user should know."""
    prefix = "note: "
    _write(sys.stderr, [(prefix, "doubt"), bounded(text, LONGEST_MESSAGE - len(prefix))])


def complain(text: str) -> None:
    """The one line of an error, under 500 characters as the stream encodes it."""
    encoding = sys.stderr.encoding or "utf-8"
    prefix = "skipstone: error: "
    line = printable(" ".join(text.split())).encode(encoding, "backslashreplace").decode(encoding)
    _write(sys.stderr, [(prefix, "bad"), bounded(line, LONGEST_MESSAGE - len(prefix))])


def coloured(stream: TextIO) -> bool:
    """Whether a stream takes colours; NO_COLOR is the last word, then FORCE_COLOR."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return os.environ["FORCE_COLOR"] != "0"
    return moves(stream)


def moves(stream: TextIO) -> bool:
    """Whether something may be drawn and redrawn there: a terminal, and no dumb one."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def drawing_console() -> Console | None:
    """Where progress is drawn, on stderr; None if nobody looks."""
    if not moves(sys.stderr):
        return None
    from rich.console import Console

    return Console(
        file=sys.stderr, color_system="auto" if coloured(sys.stderr) else None, markup=False
    )


def width() -> int:
    """Columns of stdout: COLUMNS, those of the terminal, or 120."""
    stated = os.environ.get("COLUMNS", "")
    if stated.isascii() and stated.isdigit() and int(stated[:9]) > 0:
        found = int(stated[:9])
    else:
        try:
            found = os.get_terminal_size(sys.stdout.fileno()).columns or PLAIN_WIDTH
        # It is no terminal, or no file at all.
        except (OSError, ValueError):
            found = PLAIN_WIDTH
    return max(_NARROWEST, min(found, _WIDEST))


def _write(stream: TextIO, parts: Iterable[TextPart]) -> None:
    styled = [(part, "") if isinstance(part, str) else part for part in parts]
    texts = [(printable(text), style) for text, style in styled]
    if not coloured(stream):
        _raw(stream, "".join(text for text, _ in texts) + "\n")
        return
    from rich.style import Style

    codes = (Style.parse(STYLES[style]).render(text) if style else text for text, style in texts)
    _raw(stream, "".join(codes) + "\n")


def _raw(stream: TextIO, text: str) -> None:
    if stream is sys.stderr:
        # Both may be one file, where what came first should stand first.
        sys.stdout.flush()
    stream.write(text)
