"""Traces of schema 2: rows are numbered, and every value is under a checksum.

A table is read from its first row to its last, never by an index of its own, and what it says is
held against the number of rows ever added. So a row that was lost, copied or moved is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from skipstone.record.checksum import Checksums, Value
from skipstone.record.database import Database, SqlRow
from skipstone.record.packing import unpack_entry, unpack_step
from skipstone.record.plain import blob, text, whole
from skipstone.record.schema import Hole, StepRecord
from skipstone.record.store import MIN_ARRAYS, Experiment, TensorEntry
from skipstone.record.tensors import TensorKey

_PLACES = "SELECT id, sample, forward, number, length(arrays) FROM steps WHERE id > ?"


@dataclass(frozen=True)
class _Place:
    """Where a step stands."""

    id: int
    forward: int
    number: int
    """How many steps of the sample were written before it."""


_NOWHERE = _Place(0, -1, -1)


class Rows2:
    """The rows of a trace of schema 2."""

    def __init__(self, database: Database, checksums: Checksums) -> None:
        """Read from a database that has the tables of this schema."""
        self._database, self._checksums = database, checksums
        self._places = dict[int, dict[int, _Place]]()
        self._totals = dict[int, int]()
        self._entries = dict[int, dict[TensorKey, TensorEntry]]()
        self._steps_seen = self._tensors_seen = 0
        self._steps_lost = self._tensors_lost = 0

    def samples(self) -> list[tuple[str, str | None]]:
        """Header and outcome of each sample, as JSON."""
        sql = (
            "SELECT header_checksum, outcome_checksum, sample, header, outcome, steps FROM samples"
        )
        found = list[tuple[str, str | None]]()
        for header_checksum, outcome_checksum, sample, header, *end in self._database.rows(sql):
            if sample != len(found):
                raise ValueError(f"sample {len(found)} is missing")
            self._check("header", header_checksum, [sample, header])
            if (outcome_checksum, *end) == (None, None, None):
                found.append((text(header), None))
                continue
            self._check("outcome", outcome_checksum, [sample, *end])
            self._totals[len(found)] = whole(end[1])
            found.append((text(header), text(end[0])))
        return found

    def forwards(self, sample: int) -> list[int]:
        """The forwards that a sample took part in, ascending."""
        self._find_steps()
        return list(self._places.get(sample, ()))

    def holes(self, sample: int) -> tuple[Hole, ...]:
        """Steps of a sample that were written, and are gone."""
        self._find_steps()
        places = [_NOWHERE, *self._places.get(sample, {}).values()]
        gaps = [
            Hole(a.forward, b.forward, b.number - a.number - 1)
            for a, b in pairwise(places)
            if b.number > a.number + 1
        ]
        last = places[-1]
        if at_end := self._lost_at_end(sample, last.number + 1):
            gaps.append(Hole(last.forward, -1, at_end))
        return tuple(gaps)

    def step(self, sample: int, forward: int) -> StepRecord:
        """One step."""
        place = self._places.get(sample, {}).get(forward)
        if place is None:
            raise ValueError("it is missing")
        (row,) = self._database.rows("SELECT checksum, * FROM steps WHERE id = ?", place.id)
        checksum, *values, _, arrays = row
        self._check("steps", checksum, [*values, arrays])
        if values[1:4] != [sample, forward, place.number]:
            raise ValueError("it stands for another step")
        return unpack_step(forward, *values[4:], arrays)

    def entries(self, sample: int) -> list[TensorEntry]:
        """The index of a sample's tensors, in order of their keys."""
        self._find_tensors()
        if self._tensors_lost:
            raise ValueError(f"{self._tensors_lost} rows of their index are missing")
        found = self._entries.get(sample, {})
        return [found[key] for key in sorted(found)]

    def entry(self, sample: int, key: TensorKey) -> TensorEntry | None:
        """What the index says about one tensor; None if it was not recorded."""
        if key not in self._entries.get(sample, {}):
            self._find_tensors()
        found = self._entries.get(sample, {}).get(key)
        if found is None and self._tensors_lost:
            raise ValueError(
                f"it is not in the index, in which {self._tensors_lost} rows are missing"
            )
        return found

    def events(self, sample: int) -> list[str]:
        """Events of a sample as JSON, in order."""
        rows = [(text(event), owner) for owner, event in self._numbered("events", "sample, event")]
        return [event for event, owner in rows if owner == sample]

    def experiments(self) -> list[Experiment]:
        """Experiments on the run, by key; of several with one key, the latest."""
        rows = self._numbered("experiments", "key, created, request, outcome")
        found = {text(k): Experiment(text(k), text(r), text(o)) for k, _, r, o in rows}
        return [found[key] for key in sorted(found)]

    def _find_steps(self) -> None:
        """Look at the steps that were written since the last time."""
        added, found, size = self._added("steps"), self._steps_seen, 0
        for row in self._database.rows(_PLACES, found):
            number, sample, forward, ordinal, nbytes = map(whole, row)
            places = self._places.setdefault(sample, {})
            last = next(reversed(places.values()), _NOWHERE)
            if number <= found or forward <= last.forward or ordinal <= last.number:
                raise ValueError(f"the row of forward {forward} is out of order")
            if nbytes < MIN_ARRAYS:
                raise ValueError(f"the row of forward {forward} has no arrays")
            self._steps_lost += number - found - 1
            found, size = number, size + nbytes
            self._database.check_size(size)
            places[forward] = _Place(number, forward, ordinal)
        self._steps_lost += self._lost("steps", added, found)
        self._steps_seen = max(added, found)

    def _lost_at_end(self, sample: int, seen: int) -> int:
        """Steps of a sample that are missing after its last.

        In a run that did not end nobody knows how many a sample had; rows that are missing and that
        no later row tells of may be those of any.
        """
        if sample in self._totals:
            return self._totals[sample] - seen
        known = sum(next(reversed(p.values())).number + 1 - len(p) for p in self._places.values())
        if known > self._steps_lost:
            raise ValueError(f"{known} steps seem to be missing, but {self._steps_lost} are")
        return self._steps_lost - known

    def _find_tensors(self) -> None:
        """Look at the tensors that were written since the last time."""
        added, found = self._added("tensors"), self._tensors_seen
        for row in self._database.rows("SELECT checksum, * FROM tensors WHERE id > ?", found):
            checksum, *values, _ = row
            self._check("tensors", checksum, values)
            number, entry = whole(values[0]), unpack_entry(*values[1:])
            mine = self._entries.setdefault(entry.sample, {})
            if number <= found or entry.key in mine:
                raise ValueError(f"the row of {entry.key} is out of order")
            self._tensors_lost += number - found - 1
            found = number
            mine[entry.key] = entry
        self._tensors_lost += self._lost("tensors", added, found)
        self._tensors_seen = max(added, found)

    def _numbered(self, table: str, columns: str) -> Iterator[SqlRow]:
        """All rows of a table, of which none may be missing."""
        added, found = self._added(table), 0
        for row in self._database.rows(f"SELECT checksum, id, {columns} FROM {table}"):
            checksum, *values = row
            if values[0] != found + 1:
                raise ValueError(f"row {found + 1} is missing")
            self._check(table, checksum, values)
            found += 1
            yield tuple(values[1:])
        if self._lost(table, added, found):
            raise ValueError(f"row {found + 1} is missing")

    def _added(self, table: str) -> int:
        """How many rows were ever added to a table, by the time it is asked."""
        rows = list(self._database.rows("SELECT seq FROM sqlite_sequence WHERE name = ?", table))
        if len(rows) > 1:
            raise ValueError(f"the rows of {table} are counted twice")
        return whole(rows[0][0]) if rows else 0

    def _lost(self, table: str, added: int, found: int) -> int:
        """Rows that are missing at the end of a table, read after they were counted."""
        if found > added and self._added(table) < found:
            raise ValueError(f"it has more rows than were ever added to {table}")
        return max(0, added - found)

    def _check(self, table: str, checksum: object, values: list[object]) -> None:
        """Hold a row against its checksum.

        Raises:
            ValueError: a value was changed.
        """
        if blob(checksum) != self._checksums.row(table, *map(_value, values)):
            raise ValueError("its checksum is wrong")


def _value(value: object) -> Value:
    """What SQLite gives: it has no other types."""
    assert value is None or isinstance(value, (str, int, float, bytes))
    return value
