"""The page of benchmarks, from the dated files of results."""

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LONGEST_TABLE = 24
_HEAD = """# Benchmarks

Generated from the files in `benchmarks/results/`; `make docs` writes it again. Each file has the
date of its measurement in its name, and the command that repeats it. What a file does not say is
not made up here.
"""


def benchmark_page() -> str:
    """Every file of results, the latest first."""
    paths = sorted(RESULTS.glob("*.json"), key=lambda path: (path.name[:10], path.name))
    return "\n".join([_HEAD, *map(section, reversed(paths))])


def section(path: Path) -> str:
    """One file: what was measured, how, where, and the figures."""
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    command = str(result.get("command", ""))
    lines = [f"## {path.stem[11:]}, {path.stem[:10]}", "", _purpose(command), ""]
    lines += [f"- {name}: {_flat(result[name])}" for name in _facts(result)]
    lines += [f"- command: {f'`{command}`' if command else 'not recorded in the file'}"]
    lines += [f"- all figures: [{path.name}](../benchmarks/results/{path.name})", ""]
    for name, value in result.items():
        if rows := _rows(value):
            lines += [f"**{_words(name)}**", "", *_table(rows), ""]
    return re.sub("\n{3,}", "\n\n", "\n".join(lines))


def _facts(result: Mapping[str, Any]) -> Iterator[str]:
    """Names of what is no table, without the command."""
    for name, value in result.items():
        if not _rows(value) and name not in ("command", "benchmark"):
            yield name


def _rows(value: object) -> list[dict[str, Any]]:
    """Rows of a table, be it a list of objects or objects by name; none if it is no table."""
    if isinstance(value, dict) and value and all(isinstance(one, dict) for one in value.values()):
        return [{"name": name, **one} for name, one in value.items()]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return value
    return []


def _purpose(command: str) -> str:
    """What the script or command that a command line runs says of itself."""
    if own := re.match(r"skipstone ([a-z]+)", command):
        command = f"src/skipstone/cli/{own.group(1)}.py"
    path = re.search(r"[\w/]+\.py", command)
    module = re.search(r"-m ([\w.]+)", command)
    name = path.group() if path else f"{module.group(1).replace('.', '/')}.py" if module else ""
    script = ROOT / name
    if not script.is_file():
        return ""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[0].replace("``", "`")


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Objects as rows; nothing but their number where they are many."""
    if len(rows) > LONGEST_TABLE:
        return [f"{len(rows):,} entries, in the file."]
    cells = [dict(_columns(row)) for row in rows]
    names = list(dict.fromkeys(name for row in cells for name in row))
    body = [[row.get(name, "") for name in names] for row in cells]
    return [_line(map(_words, names)), _line("---" for _ in names), *map(_line, body)]


def _columns(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and texts; of a group of figures that has a total, the total stands for it."""
    for name, value in row.items():
        if isinstance(value, dict) and "all" in value:
            yield name, _flat(value["all"])
        else:
            yield name, _flat(value)


def _line(cells: Iterator[str] | Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _flat(value: object) -> str:
    """A figure, or several with their names."""
    match value:
        case dict():
            return "; ".join(f"{_words(str(name))} {_flat(entry)}" for name, entry in value.items())
        case list():
            return ", ".join(map(_flat, value))
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
        case _:
            return str(value)
