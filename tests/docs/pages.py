"""Pages of Markdown, run as their readers would run them: block by block, in one folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from doctest import ELLIPSIS, OutputChecker
from io import StringIO
from pathlib import Path

from markdown_it import MarkdownIt

from skipstone.cli.main import run


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    code: str
    line: int
    """Of the page, from 1."""
    shown: str | None = None
    """What the page says it prints: the block of ``text`` right after it."""


def blocks(page: Path) -> list[Block]:
    """Every fenced block, in order."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    found = list[Block]()
    for i, token in enumerate(tokens):
        if token.type != "fence":
            continue
        assert token.map is not None
        after = tokens[i + 1] if i + 1 < len(tokens) else None
        output = after is not None and after.type == "fence" and after.info == "text"
        shown = after.content if after is not None and output else None
        found.append(Block(token.info, token.content, token.map[0] + 1, shown))
    return found


def commands(code: str) -> Iterator[list[str]]:
    """The command lines of a shell block, as words."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def execute(block: Block, namespace: dict[str, object]) -> str:
    """Run a block of ``python`` or of ``skipstone`` commands; what it prints."""
    printed = StringIO()
    with redirect_stdout(printed):
        if block.language == "python":
            exec(compile(block.code, f"line {block.line}", "exec"), namespace)
        else:
            assert block.language == "sh", f"line {block.line}: nothing runs {block.language!r}"
            for program, *arguments in commands(block.code):
                assert program == "skipstone", f"line {block.line}: {program} is not run here"
                assert run(arguments) in (0, 1), f"line {block.line}: {arguments}"
    return printed.getvalue()


def is_as_shown(shown: str, printed: str) -> bool:
    """Whether a page shows what is printed; ``...`` stands for anything."""
    return OutputChecker().check_output(shown, printed, ELLIPSIS)
