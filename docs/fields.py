"""The page of every field of a trace, from the classes that hold them."""

import ast
import inspect
from collections.abc import Iterator

from skipstone.record import candidates, judgements, schema
from skipstone.record.store import TABLES

_HEAD = f"""# Fields of a trace

Generated from `skipstone.record`; `make docs` writes it again. [Traces on disk](traces.md) tells
how the parts hang together.

{inspect.getdoc(schema)}

## Tables

```sql
{TABLES.strip()}
```
"""

CLASSES = {
    "Header": "JSON object in `samples.header`.",
    "Outcome": "JSON object in `samples.outcome`.",
    "Event": "JSON object in `events.event`.",
    "StepRecord": "A row of `steps`: numbers in columns, arrays in the blob `arrays`.",
    "Candidates": "Arrays named `candidates.` and the field, in the blob of a step.",
    "Judgements": "Arrays named `judgements.` and the field, in the blob of a step.",
}


def field_page() -> str:
    """Every field with its type and meaning."""
    parsed = [ast.parse(inspect.getsource(module)) for module in (schema, candidates, judgements)]
    bodies = [node for module in parsed for node in module.body]
    classes = {node.name: node for node in bodies if isinstance(node, ast.ClassDef)}
    return "\n".join([_HEAD, *(_table(classes[name], where) for name, where in CLASSES.items())])


def _table(node: ast.ClassDef, where: str) -> str:
    about = (ast.get_docstring(node) or "").partition("\n")[0]
    rows = [f"| `{name}` | `{kind}` | {meaning} |" for name, kind, meaning in _fields(node)]
    head = ["| field | type | meaning |", "| --- | --- | --- |"]
    return "\n".join([f"## {node.name}", "", f"{about} {where}", "", *head, *rows, ""])


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """Name, type, and the text below, of every field."""
    for entry, after in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
            kind = ast.unparse(entry.annotation).replace(" | ", " or ")
            yield entry.target.id, kind, _text(after)


def _text(node: ast.stmt) -> str:
    """A text that stands alone, in one line; empty if it is something else."""
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return ""
    return " ".join(str(node.value.value).replace("``", "`").split())
