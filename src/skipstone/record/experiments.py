"""Experiments on a recorded run, which are added to its trace after it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from skipstone.errors import TraceError
from skipstone.record.checksum import Checksums
from skipstone.record.damage import DAMAGE, reason
from skipstone.record.database import Database, open_for_writing
from skipstone.record.plain import whole
from skipstone.record.store import MAX_JSON, SCHEMA, TABLES, Experiment, Manifest

_INSERT = "INSERT INTO experiments VALUES (?, ?, ?, ?, ?, ?)"
_ADDED = "SELECT seq FROM sqlite_sequence WHERE name = 'experiments'"


def add_experiments(folder: Path, manifest: Manifest, found: Sequence[Experiment]) -> None:
    """Add experiments to a trace, all of them or none.

    Raises:
        TraceError: the trace is of an older schema, is damaged, or cannot be written to.
    """
    if manifest.schema != SCHEMA:
        raise TraceError(
            f"experiments are not kept in {str(folder)!r}: it is of schema {manifest.schema}, "
            f"whose traces are only read"
        )
    created = datetime.now(UTC).isoformat(timespec="seconds")
    rows = [(e.key, created, e.request, e.outcome) for e in found]
    if any(len(text) > MAX_JSON for row in rows for text in row):
        raise TraceError(f"an experiment is larger than {MAX_JSON} bytes, and is not kept")
    try:
        with open_for_writing(folder, TABLES) as database:
            _add(database, Checksums(manifest.run), rows)
    except DAMAGE as error:
        raise TraceError(
            f"experiments cannot be kept in {str(folder)!r} ({reason(error)}); copy the trace to "
            f"where you can write"
        ) from error


def _add(database: Database, checksums: Checksums, rows: list[tuple[str, str, str, str]]) -> None:
    added = [whole(seq) for (seq,) in database.rows(_ADDED)]
    for number, row in enumerate(rows, max(added, default=0) + 1):
        database.insert(_INSERT, (number, *row, checksums.row("experiments", number, *row)))
