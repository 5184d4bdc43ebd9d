"""Checkouts of published code on this machine, imported one beside the other.

Repositories call their folders ``model`` or ``generate``, so each is imported with its own folder
first in the path, and its modules leave ``sys.modules`` again: who imported them still has them.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(os.environ.get("SKIPSTONE_PUBLISHED", "published-code"))
"""Holds one checkout a repository, by the repository's name."""

COMMIT = ".commit"
"""File that names the commit of a checkout that is no repository."""


def present(repository: str) -> bool:
    """Whether there is a checkout of a repository."""
    return (FOLDER / repository).is_dir()


def commit(repository: str) -> str:
    """First letters of the commit that is checked out; empty if nothing tells."""
    named = FOLDER / repository / COMMIT
    return named.read_text().strip()[:10] if named.exists() else ""


def load(
    repository: str, *names: str, under: str = "", bare: Sequence[str] = ()
) -> tuple[Any, ...]:
    """Import modules of a checkout.

    Args:
        repository: name of the folder.
        names: dotted names of modules.
        under: folder of the checkout that their names start from.
        bare: packages whose own ``__init__`` is left out, since it imports all that they have.
    """
    root = FOLDER / repository / under
    with _alone(root):
        for name in bare:
            package = ModuleType(name)
            package.__path__ = [str(root / name.replace(".", "/"))]
            sys.modules[name] = package
        return tuple(importlib.import_module(name) for name in names)


@contextmanager
def _alone(root: Path) -> Generator[None]:
    """``root`` comes first in the path; what is imported from it is forgotten afterwards."""
    before = dict(sys.modules)
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
        # All are found before one goes: a namespace asks its parent where it lies.
        new = [(name, module) for name, module in sys.modules.items() if name not in before]
        for name in [name for name, module in new if _lies_in(module, root)]:
            del sys.modules[name]


def _lies_in(module: ModuleType, root: Path) -> bool:
    file = getattr(module, "__file__", None)
    folders = [file] if file else list(getattr(module, "__path__", []))
    return any(Path(folder).is_relative_to(root) for folder in folders)
