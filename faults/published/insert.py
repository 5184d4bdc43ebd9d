"""Putting a statement of ours into a function of theirs, in memory.

A statement goes behind an assignment to a variable, which is found by its name. So a fault can be
planted into the middle of a loop, and no text of that loop has to be kept here.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from copy import deepcopy
from unittest.mock import patch

from skipstone.errors import ConfigError

Body = list[ast.stmt]

_TREE = "__planted_tree__"


def inserted(
    owner: object, name: str, statement: str, *, after: str, nth: int | None = None
) -> AbstractContextManager[object]:
    """Run ``statement`` behind assignments to ``after`` in a function, for a while.

    Args:
        owner: the module or class that has the function.
        name: of the function.
        statement: one or more lines; sees the variables of the function.
        after: a variable; assignments into a part of it count too.
        nth: which of these assignments, from 0, negative from the last; None for every one.

    Raises:
        ConfigError: there is no such assignment.
    """
    return patch.object(owner, name, _rewritten(getattr(owner, name), statement, after, nth))


def _rewritten(
    function: Callable[..., object], statement: str, after: str, nth: int | None
) -> object:
    inner = inspect.unwrap(function)
    tree = _tree(inner)
    places = list(_assignments(tree, after))
    chosen = [places[i] for i in range(len(places)) if nth is None or i == nth % len(places)]
    if not chosen or (nth is not None and not -len(places) <= nth < len(places)):
        raise ConfigError(
            f"{function.__name__} has {len(places)} assignments to {after!r}; this fault was "
            f"written for another version of the code"
        )
    # From the last one, for the indices of those before it stay as they are.
    for body, index in reversed(chosen):
        new = ast.parse(textwrap.dedent(statement)).body
        for node in [n for top in new for n in ast.walk(top)]:
            if isinstance(node, ast.stmt | ast.expr):
                ast.copy_location(node, body[index])
        body[index + 1 : index + 1] = new
    ast.fix_missing_locations(tree)
    space = dict[str, Callable[..., object]]()
    names = getattr(inner, "__globals__", {})
    exec(compile(tree, inspect.getfile(inner), "exec"), names, space)
    new = space[function.__name__]
    setattr(inspect.unwrap(new), _TREE, tree)
    return new


def _tree(function: Callable[..., object]) -> ast.Module:
    """A function as a tree; one that was rewritten already has no text any more."""
    known: ast.Module | None = getattr(function, _TREE, None)
    if known is not None:
        return deepcopy(known)
    lines, first = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    # So that a line of a traceback, or of a record, is a line of their file.
    return ast.increment_lineno(tree, first - 1)


def _assignments(tree: ast.AST, name: str) -> Iterator[tuple[Body, int]]:
    """Where a variable, or a part of it, is assigned to: the list of statements and the index."""
    found = [
        (statement.lineno, body, index)
        for node in ast.walk(tree)
        for body in _bodies(node)
        for index, statement in enumerate(body)
        if any(_base(target) == name for target in _targets(statement))
    ]
    for _, body, index in sorted(found, key=lambda place: place[0]):
        yield body, index


def _bodies(node: ast.AST) -> Iterator[Body]:
    for field in ("body", "orelse", "finalbody"):
        body = getattr(node, field, None)
        if isinstance(body, list):
            yield body


def _targets(statement: ast.stmt) -> Iterator[ast.expr]:
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AugAssign | ast.AnnAssign):
        targets = [statement.target]
    else:
        return
    for target in targets:
        yield from target.elts if isinstance(target, ast.Tuple) else [target]


def _base(target: ast.expr) -> str:
    """The variable that is assigned to, as a whole or in part."""
    while isinstance(target, ast.Subscript | ast.Attribute):
        target = target.value
    return target.id if isinstance(target, ast.Name) else ""
