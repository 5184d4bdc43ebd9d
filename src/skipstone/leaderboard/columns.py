"""The table in files: Parquet for programs, Markdown for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from skipstone.leaderboard.board import ALL, Leaderboard, Line, Unanswered
from skipstone.leaderboard.protocol import Contender
from skipstone.quoting import whole_characters
from skipstone.sweep.measure import RAISED

MOST_BROKEN = 400
"""Settings and families that broke, and answers that changed, of a table for people."""

_HEADINGS = (
    "setting",
    "right",
    "95 %",
    "answers changed",
    "tokens changed",
    "forwards",
    "rows",
    "FLOPs",
    "s",
    "faster",
    "why answers changed",
)
_ON_GPU = "GPU s"


def rows(found: Leaderboard) -> list[dict[str, object]]:
    """All that is known, flat: every line, then what has none since its policy raised errors."""
    lines = [_row(line) for line in found.lines]
    nothing = dict[str, object].fromkeys(lines[0])
    return [*lines, *(nothing | _without_line(one) for one in found.unanswered)]


def _row(line: Line) -> dict[str, object]:
    s, right = line.summary, line.right
    return {
        **_of_setting(line.family, line.entry, s.prompts),
        "raised": s.raised,
        "known": s.known,
        "right": s.right,
        "right_low": right.low if right else None,
        "right_high": right.high if right else None,
        "answers_changed": s.differing,
        "changed_low": s.disagreement.low,
        "changed_high": s.disagreement.high,
        "tokens_changed": 1 - s.same_tokens.value,
        "first_forward": s.first_forward,
        "forwards": s.forwards,
        "rows": s.rows,
        "flops": line.flops,
        "skip_share": s.skip_share,
        "seconds": s.seconds,
        "faster": s.speedup.value,
        "faster_low": s.speedup.low,
        "faster_high": s.speedup.high,
        "gpu_seconds": line.gpu.seconds if line.gpu else None,
        "gpu_low": line.gpu.low if line.gpu else None,
        "gpu_high": line.gpu.high if line.gpu else None,
        "gpu_tokens_per_s": line.gpu.tokens_per_s if line.gpu else None,
        "causes": causes(line),
    }


def _without_line(one: Unanswered) -> dict[str, object]:
    return {
        **_of_setting(one.family, one.entry, one.prompts),
        "raised": one.prompts,
        "answers_changed": one.prompts,
        "causes": f"{RAISED} {one.prompts}",
    }


def _of_setting(family: str, entry: Contender, prompts: int) -> dict[str, object]:
    return {
        "family": family,
        "kind": entry.kind,
        "policy": entry.policy,
        "value": entry.value,
        "published": entry.published,
        "setting": entry.setting.name,
        "spec": whole_characters(entry.setting.spec),
        "prompts": prompts,
    }


def write_parquet(found: Leaderboard, path: Path) -> None:
    """What ``rows`` gives."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("wb") as file:
        pq.write_table(pa.Table.from_pylist(rows(found)), file)


def markdown(found: Leaderboard, about: str) -> str:
    """The table over all prompts, and what broke in which family.

    Args:
        found: the table.
        about: what was run, on what: one paragraph.
    """
    table = _table(headings(found), [cells(line, found) for line in found.of(ALL)])
    parts = [about, *([found.gpu.about] if found.gpu else []), table]
    families = [name for name in found.families if name != ALL]
    broken = [line for name in families for line in found.of(name) if line.changed]
    if broken:
        columns = ("family", "setting", "answers changed", "right", "why")
        told = [(line.family, *_breaks(line)) for line in broken[:MOST_BROKEN]]
        parts += ["## What broke, by family", _table(columns, told)]
        if len(broken) > MOST_BROKEN:
            parts += [f"The first {MOST_BROKEN} of {len(broken)}; board.parquet has every one."]
    for heading, texts in (("Raised errors", found.raised), ("Left out", found.protocol.left_out)):
        if texts:
            parts += [f"## {heading}", "\n".join(f"- {_plain(text)}" for text in texts)]
    return "\n\n".join(parts) + "\n"


def headings(found: Leaderboard) -> tuple[str, ...]:
    """Of the columns; one more if times on a GPU are known."""
    return (*_HEADINGS[:-1], *((_ON_GPU,) if found.gpu else ()), _HEADINGS[-1])


def cells(line: Line, found: Leaderboard) -> tuple[str, ...]:
    """A line for people, under ``headings``."""
    s, right = line.summary, line.right
    on_gpu = f"{line.gpu.seconds:.3g}" if line.gpu else "-"
    return (
        s.setting,
        f"{s.right}/{s.known}" if s.known else "-",
        f"{right.low:.0%} to {right.high:.0%}" if right else "-",
        f"{s.differing}/{s.prompts}",
        f"{1 - s.same_tokens.value:.1%}",
        f"{s.forwards:.1f}",
        f"{s.rows:.0f}",
        f"{line.flops:.0%}",
        f"{s.seconds:.2f}",
        f"{s.speedup.value:.2f}",
        *((on_gpu,) if found.gpu else ()),
        causes(line) or "-",
    )


def causes(line: Line) -> str:
    """The causes of a line's changed answers, the most frequent first."""
    return ", ".join(f"{name} {count}" for name, count in line.causes.most_common())


def _breaks(line: Line) -> tuple[str, ...]:
    s = line.summary
    right = f"{s.right}/{s.known}" if s.known else "-"
    return s.setting, f"{s.differing}/{s.prompts}", right, causes(line) or "-"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_plain, cells))} |" for cells in lines)


def _plain(text: str) -> str:
    """Text that says nothing to Markdown."""
    escaped = "".join(f"\\{c}" if c in "\\`*_{}[]<>#|!" else c for c in text)
    return " ".join(escaped.split())
