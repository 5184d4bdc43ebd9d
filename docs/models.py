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
_DEFAULTS = """
## Recommended settings are the defaults

Who loads a checkpoint and states nothing decodes with what the column *recommended* says, and
answers end at EOS, at the tokens that end a turn and at those of `generation_config.json`. The
file's `temperature`, `top_p`, `top_k` and `do_sample` come before the column. A line on stderr
says what was taken; results and records hold all settings as they were.

- What is stated wins, each setting by itself: `--top-p 0.5` leaves Dream its order and its
  temperature. So do `stop_ids`, also none (`--stop-ids none`); without `eos_stop` nothing ends an
  answer but what is stated.
- Which rows are recomputed, and how blocks are cut, is Skipstone's own default for every model:
  authors decode without a cache, and Dream's without blocks.
- Dream's recommendation draws. The seed is 0 where none is given, so that an answer comes again.
- Draws go with their unmask policy: beside another one (`--unmask threshold`) Dream is greedy,
  since a low temperature and a cut raise the confidence that a bar is held against. At
  `--temperature 0` nothing is cut.
- Runs that are held against each other (`compare`, `audit`, `sweep`, `explain`) take the
  recommended order and end, and do not draw unless that is stated: draws differ with the order of
  commits.
- What would have no effect beside what was stated is not taken, so nobody is told of it.
- `bench` and the recorded cases below state everything.
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
    return "".join([_HEAD, *_rows(), _DEFAULTS, _RECORDED, _OTHERS, *_refused()])


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
