"""The tables of the page of models: what runs and was checked, and what does not run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from skipstone.models.family import UNSUPPORTED
from skipstone.models.table import ARCHITECTURES

_PAGE = Path(__file__).with_name("models.md")


def models_page() -> str:
    """The page as it stands, with its tables written again."""
    page = _PAGE.read_text("utf-8")
    for name, lines in (("supported", _supported()), ("refused", _refused())):
        before, begin, rest = page.partition(f"<!-- table: {name} -->\n")
        _, end, after = rest.partition("<!-- end of table -->\n")
        page = "".join((before, begin, "\n", *lines, "\n", end, after))
    return page


def _supported() -> Iterable[str]:
    heads = ("model", "checkpoints", "ids", "chat", "recommended", "checked against", "not")
    yield from _heading(heads)
    for entry in ARCHITECTURES.values():
        guide = entry.guide
        yield _row(
            (
                f"{entry.title} (`{entry.name}`, `{entry.model_type}`)",
                guide.checkpoints,
                guide.ids,
                guide.chat,
                f"`{guide.spec}`: {guide.by}" if guide.recommended else f"the defaults: {guide.by}",
                "; ".join(guide.verified),
                "; ".join(guide.missing) or "-",
            )
        )


def _refused() -> Iterable[str]:
    yield from _heading(("model", "why"))
    for name, (title, why) in UNSUPPORTED.items():
        yield _row((f"{title} (`{name}`)", why))


def _heading(cells: Sequence[str]) -> Iterable[str]:
    yield _row(cells)
    yield _row(["---"] * len(cells))


def _row(cells: Sequence[str]) -> str:
    """Special tokens are no HTML, and their bars no borders."""
    texts = (re.sub(r"(<[^ ]+>)", r"`\1`", cell.replace("|", "\\|")) for cell in cells)
    return f"| {' | '.join(texts)} |\n"
