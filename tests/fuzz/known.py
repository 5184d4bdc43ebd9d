"""What a long run of checks has found so far, on disk: a stopped one goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conftest import ROOT


def code() -> str:
    """A checksum over the product and its tests: with others the findings are others."""
    told = hashlib.sha256()
    for folder in (ROOT / "src", ROOT / "tests"):
        for path in sorted(folder.rglob("*.py")):
            told.update(path.read_bytes())
    return told.hexdigest()[:16]


class Known:
    """Results as JSON lines; those of other code are forgotten."""

    def __init__(self, path: Path, *, fresh: bool) -> None:
        """Read what is there, but for a line that was not written to its end."""
        head = json.dumps({"code": code()})
        lines = path.read_text().splitlines() if path.exists() and not fresh else []
        self.rows = list[dict[str, Any]]()
        for line in lines[1:] if lines[:1] == [head] else []:
            try:
                self.rows.append(json.loads(line))
            except ValueError:
                break
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [head, *map(json.dumps, self.rows)]
        path.write_text("".join(f"{line}\n" for line in kept))

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep one result."""
        self.rows.append(dict(row))
        with self._path.open("a") as file:
            file.write(f"{json.dumps(row)}\n")
