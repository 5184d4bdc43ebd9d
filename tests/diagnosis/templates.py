"""Every sentence that a diagnosis can say, read from the code that says it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from string import Formatter
from typing import get_args

from skipstone.diagnosis.deviation import DeviationKind
from skipstone.diagnosis.events import SHAPES
from skipstone.record import Tap
from skipstone.sentence import Sentence
from tests.conftest import ROOT

PACKAGE = ROOT / "src" / "skipstone"


def templates() -> set[str]:
    """The templates of all sentences: literals, those that a name stands for, and the kinds."""
    found = {*SHAPES, *get_args(DeviationKind), *(tap.value for tap in Tap), *_TENSORS}
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name != "sentence.py":
            found |= {text for call in _calls(tree) for text in _literals(call.args[0], tree)}
    return found - {""}


_TENSORS = ("states", "keys", "values", "similarity", "weights", "prompt ids", "vocabulary")
_TENSORS += ("mask id",)


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Sentence":
            yield node


def _literals(argument: ast.expr, tree: ast.AST) -> Iterator[str]:
    """Texts that an argument may be; a name stands for what is assigned to it in the file."""
    match argument:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=body, orelse=other):
            yield from _literals(body, tree)
            yield from _literals(other, tree)
        case ast.Dict(values=values):
            for value in values:
                yield from _literals(value, tree)
        case ast.Subscript(value=value):
            yield from _literals(value, tree)
        case ast.Name(id=name):
            for node in ast.walk(tree):
                targets = node.targets if isinstance(node, ast.Assign) else []
                if isinstance(node, ast.Assign) and any(
                    isinstance(t, ast.Name) and t.id == name for t in targets
                ):
                    yield from _literals(node.value, tree)
        case _:
            return


def gaps(template: str) -> set[tuple[str, str]]:
    """Name and format of every gap."""
    return {(name, spec or "") for _, name, spec, _ in Formatter().parse(template) if name}


def filled(template: str) -> Sentence:
    """A sentence with numbers in its gaps."""
    values = {
        name: 3 if spec.endswith("d") else 0.5 if spec else "7" for name, spec in gaps(template)
    }
    return Sentence(template, **values)


def spoken_by_recorders() -> str:
    """All texts that recorders format, gaps left out."""
    parts = list[str]()
    for path in (
        path for name in ("tracing", "foreign") for path in (PACKAGE / name).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts += [p.value for p in node.values if isinstance(p, ast.Constant)]
    return "\n".join(map(str, parts))
