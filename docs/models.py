"""The page of models: what runs, what was checked against what, and what does not run."""

from __future__ import annotations

from collections.abc import Iterator

from skipstone.models.family import UNSUPPORTED
from skipstone.models.table import ARCHITECTURES

_HEAD = """# Models

Generated from the table of architectures; `make docs` writes it again. `skipstone models` prints
the same, `skipstone models NAME` all of one. A checkpoint of another architecture is refused by
name.

Chat templates are those of the checkpoint's own tokenizer. Every cache, skip and unmask policy runs
with every model. Quantised checkpoints and adapters are refused.

| model | checkpoints | ids | recommended | checked against | not supported, not checked |
| --- | --- | --- | --- | --- | --- |
"""
_RECORDED = """
## Recorded cases

`python -m skipstone.testing.golden DIR...` decodes what published code gave on small random
checkpoints, in float32, and compares tokens, forwards and the commits of each forward. None is left
out.
"""
_OTHERS = """
## Not supported

| model | why |
| --- | --- |
"""


def models_page() -> str:
    """One row for each entry, then what does not run."""
    return "".join([_HEAD, *_rows(), _RECORDED, _OTHERS, *_refused()])


def _rows() -> Iterator[str]:
    for entry in ARCHITECTURES.values():
        guide = entry.guide
        cells = [
            f"{entry.title} (`{entry.name}`)",
            guide.checkpoints,
            guide.ids,
            f"`{guide.spec}`: {guide.by}" if guide.recommended else f"the defaults: {guide.by}",
            "; ".join(guide.verified),
            "; ".join(guide.missing) or "-",
        ]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _refused() -> Iterator[str]:
    for name, (title, why) in UNSUPPORTED.items():
        yield f"| {title} (`{name}`) | {why} |\n"
