"""The reader of traces: steps and tensors are loaded when they are asked for."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol, Self, overload

import numpy as np

from skipstone.errors import TraceError
from skipstone.kinds import of_kind
from skipstone.record.bounds import check_entry, check_header, check_outcome, check_step
from skipstone.record.checksum import Checksums
from skipstone.record.damage import reading
from skipstone.record.database import Database, open_for_reading
from skipstone.record.experiments import add_experiments
from skipstone.record.manifest import read_manifest
from skipstone.record.plain import from_json
from skipstone.record.schema import Event, Header, Hole, Outcome, RunRecord, StepRecord
from skipstone.record.schema_1 import TABLES as TABLES_1
from skipstone.record.schema_1 import Rows1
from skipstone.record.schema_2 import Rows2
from skipstone.record.shards import read_tensor
from skipstone.record.store import SHARDS, TABLES, Experiment, Manifest, TensorEntry
from skipstone.record.tensors import TensorKey, TensorRows, with_provenance


class StoredRows(Protocol):
    """What is asked of the database of a trace, whatever its schema."""

    def samples(self) -> list[tuple[str, str | None]]:
        """Header and outcome of each sample, as JSON."""
        ...

    def forwards(self, sample: int) -> list[int]:
        """The forwards that a sample took part in, ascending."""
        ...

    def holes(self, sample: int) -> tuple[Hole, ...]:
        """Steps of a sample that were written, and are gone."""
        ...

    def step(self, sample: int, forward: int) -> StepRecord:
        """One step; its forward was found by ``forwards``."""
        ...

    def entries(self, sample: int) -> list[TensorEntry]:
        """The index of a sample's tensors, in order of their keys."""
        ...

    def entry(self, sample: int, key: TensorKey) -> TensorEntry | None:
        """What the index says about one tensor; None if it was not recorded."""
        ...

    def events(self, sample: int) -> list[str]:
        """Events of a sample as JSON, in order."""
        ...

    def experiments(self) -> list[Experiment]:
        """Experiments on the run, by key."""
        ...


def open_trace(path: str | Path) -> StoredTrace:
    """Open a trace for reading; it may be unfinished, or still being written.

    Raises:
        ConfigError: ``path`` is no path.
        TraceError: there is no trace at ``path``, it is damaged, or it is from a newer version.
    """
    of_kind("path", path, (str, Path), "the folder of a trace")
    folder = Path(path)
    manifest = read_manifest(folder)
    database = _open(folder, manifest)
    try:
        return StoredTrace(folder, manifest, database)
    except BaseException:
        database.close()
        raise


class StoredTrace:
    """A trace on disk; made by ``open_trace``. A context manager, or closed when forgotten."""

    def __init__(self, path: Path, manifest: Manifest, database: Database) -> None:
        """Read the headers; takes over ``database``."""
        self.path = path
        self.manifest = manifest
        self._rows = _rows(database, manifest)
        self._loaded = dict[int, RunRecord]()
        with reading(path, "its samples"):
            samples = self._rows.samples()
            if len(samples) != manifest.samples:
                raise ValueError(f"{len(samples)} samples, the manifest says {manifest.samples}")
            self.headers = tuple(_header(header) for header, _ in samples)
            """One for each sample; here at once, while a record takes reading its steps."""
            self.outcomes = tuple(None if end is None else _outcome(end) for _, end in samples)
            """One for each sample; None where the run did not end by itself."""
        self._close = weakref.finalize(self, database.close)

    def __repr__(self) -> str:
        state = "finished" if self.closed else "unfinished"
        samples = f"{len(self.headers)} samples, level {self.manifest.level}"
        return f"<StoredTrace {str(self.path)!r}: {state}, {samples}>"

    @property
    def records(self) -> Sequence[RunRecord]:
        """One record for each sample, read when it is first asked for."""
        return _Records(self)

    @property
    def closed(self) -> bool:
        """Whether the run ended by itself; if not it was stopped, or is still going."""
        return None not in self.outcomes

    @property
    def has_checksums(self) -> bool:
        """Whether a change of what was recorded would be seen; not so in schema 1."""
        return self.manifest.schema > 1

    @property
    def experiments(self) -> list[Experiment]:
        """What experiments on the run found, in the order of their keys.

        Raises:
            TraceError: the table is damaged.
        """
        # Others may have added some since the trace was opened.
        with (
            reading(self.path, "its experiments"),
            closing(_open(self.path, self.manifest)) as database,
        ):
            return _rows(database, self.manifest).experiments()

    def add_experiment(self, key: str, request_json: str, outcome_json: str) -> None:
        """Keep the result of an experiment in the trace; an older one of this key gives way.

        Raises:
            TraceError: the trace is of an older schema, or cannot be written to.
        """
        self.add_experiments([Experiment(key, request_json, outcome_json)])

    def add_experiments(self, found: Sequence[Experiment]) -> None:
        """Keep the results of several experiments, all or none.

        Raises:
            TraceError: the trace is of an older schema, or cannot be written to.
        """
        add_experiments(self.path, self.manifest, found)

    def record(self, sample: int) -> RunRecord:
        """The whole record of a sample; steps that are missing are its ``holes``.

        Raises:
            IndexError: there is no such sample.
            TraceError: a step or an event is damaged.
        """
        if sample not in self._loaded:
            header, outcome = self.headers[sample], self.outcomes[sample]
            steps, events = tuple(self.steps(sample)), tuple(self.events(sample))
            self._loaded[sample] = RunRecord(header, steps, outcome, events, self.holes(sample))
        return self._loaded[sample]

    def forwards(self, sample: int) -> list[int]:
        """The forwards of a sample whose steps are here, ascending.

        Raises:
            TraceError: the table of steps is damaged.
        """
        with reading(self.path, f"the steps of sample {sample}"):
            return self._rows.forwards(sample)

    def step(self, sample: int, forward: int) -> StepRecord:
        """One step, whose forward is among ``forwards``.

        Raises:
            TraceError: it is missing or damaged.
        """
        with reading(self.path, f"the step at forward {forward} of sample {sample}"):
            step = self._rows.step(sample, forward)
            check_step(self.headers[sample], step)
            return step

    def steps(self, sample: int) -> Iterator[StepRecord]:
        """The steps of a sample in order, one at a time.

        Raises:
            TraceError: a step is damaged; it is named.
        """
        # Each row is fetched whole: a query left open would hold up the writer's checkpoints.
        return (self.step(sample, forward) for forward in self.forwards(sample))

    def events(self, sample: int) -> list[Event]:
        """What was seen in passing, in order.

        Raises:
            TraceError: one is damaged.
        """
        with reading(self.path, f"the events of sample {sample}"):
            return [from_json(Event, event) for event in self._rows.events(sample)]

    def holes(self, sample: int) -> tuple[Hole, ...]:
        """Where steps of a sample are missing that were recorded.

        Raises:
            TraceError: the table of steps is damaged.
        """
        with reading(self.path, f"the steps of sample {sample}"):
            return self._rows.holes(sample)

    def entries(self, sample: int) -> list[TensorEntry]:
        """What the index says about the tensors of a sample, in order of their keys.

        Raises:
            TraceError: the index is damaged.
        """
        with reading(self.path, f"the tensors of sample {sample}"):
            found = self._rows.entries(sample)
            for entry in found:
                check_entry(entry)
            return found

    def keys(self, sample: int) -> list[TensorKey]:
        """Tensors of a sample that were recorded, in order of forward, tap and layer.

        Raises:
            TraceError: the index is damaged.
        """
        return [entry.key for entry in self.entries(sample)]

    def tensor(self, sample: int, key: TensorKey) -> TensorRows | None:
        """One tensor, read from its shard; None if it was not recorded.

        Raises:
            TraceError: its shard or its step is missing or damaged; others can still be read.
        """
        found = self.values(sample, key)
        if found is None:
            return None
        with reading(self.path, f"{key} of sample {sample}"):
            return with_provenance(self.record(sample), key, *found)

    def values(self, sample: int, key: TensorKey) -> tuple[np.ndarray, np.ndarray] | None:
        """Positions, int32 [N], and values [N, W] of a tensor; None if it was not recorded.

        Raises:
            TraceError: its shard or its step is missing or damaged; others can still be read.
        """
        with reading(self.path, f"{key} of sample {sample}"):
            entry = self._rows.entry(sample, key)
            if entry is None:
                return None
            check_entry(entry)
        step = self._step_of(sample, key)
        checksums = Checksums(self.manifest.run) if self.has_checksums else None
        with reading(self.path, f"{key} of sample {sample}"):
            path = self.path / SHARDS / entry.shard
            return read_tensor(path, entry, step, self.headers[sample], checksums)

    def close(self) -> None:
        """Let go of the files."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _step_of(self, sample: int, key: TensorKey) -> StepRecord:
        """The step that a tensor belongs to.

        Raises:
            TraceError: it is missing.
        """
        if key.forward in self.forwards(sample):
            return self.step(sample, key.forward)
        raise TraceError(
            f"the step at forward {key.forward} of sample {sample} is missing in "
            f"{str(self.path)!r}, so that its tensors say nothing; the other steps can be read"
        )


class _Records(Sequence[RunRecord]):
    """The records of a trace, each read when it is first asked for."""

    def __init__(self, trace: StoredTrace) -> None:
        self._trace = trace

    def __len__(self) -> int:
        return len(self._trace.headers)

    @overload
    def __getitem__(self, index: int) -> RunRecord: ...

    @overload
    def __getitem__(self, index: slice) -> list[RunRecord]: ...

    def __getitem__(self, index: int | slice) -> RunRecord | list[RunRecord]:
        samples = range(len(self))[index]
        if isinstance(samples, range):
            return [self._trace.record(sample) for sample in samples]
        return self._trace.record(samples)


def _open(folder: Path, manifest: Manifest) -> Database:
    return open_for_reading(folder, TABLES_1 if manifest.schema == 1 else TABLES)


def _rows(database: Database, manifest: Manifest) -> StoredRows:
    return Rows1(database) if manifest.schema == 1 else Rows2(database, Checksums(manifest.run))


def _header(found: str) -> Header:
    header = from_json(Header, found)
    check_header(header)
    return header


def _outcome(found: str) -> Outcome:
    outcome = from_json(Outcome, found)
    check_outcome(outcome)
    return outcome
