"""Traces for other programs: Parquet tables, and a timeline for Perfetto."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from skipstone.extras import missing
from skipstone.outputs import whole_file, whole_folder
from skipstone.record.candidates import Candidates
from skipstone.record.judgements import Judgements
from skipstone.record.packing import (
    CANDIDATE_ARRAYS,
    JUDGEMENT_ARRAYS,
    STEP_ARRAYS,
    WHERE_ROWS_LEFT,
)
from skipstone.record.reader import StoredTrace
from skipstone.record.schema import StepRecord
from skipstone.record.store import TensorEntry

Columns = dict[str, Sequence[object] | np.ndarray]

_WHERE = {"sample": "int32", "forward": "int32", "block": "int32", "step": "int32"}
_STEP_SCALARS = {
    "recovery": "bool",
    "refresh": "bool",
    "block_start": "int32",
    "block_stop": "int32",
    "skip_layer": "int32",
    "seconds": "float64",
    "positions_from": "string",
    "masks_before": "int32",
    "masks_after": "int32",
}
# A name ending in [] is a list in every row.
TABLES = {
    "steps": _WHERE
    | _STEP_SCALARS
    | {n: f"{d.name}[]" for n, d in (STEP_ARRAYS | WHERE_ROWS_LEFT).items()},
    "candidates": _WHERE | {name: dtype.name for name, dtype in CANDIDATE_ARRAYS.items()},
    "judgements": _WHERE
    | {name: dtype.name for name, dtype in JUDGEMENT_ARRAYS.items()}
    | {"similarity": "float64[]"},
    "tensors": {
        "sample": "int32",
        "forward": "int32",
        "tap": "string",
        "layer": "int32",
        "shard": "string",
        "rows": "int32",
        "width": "int32",
        "dtype": "string",
        "bytes": "int64",
    },
}
"""Column types of each Parquet file."""


def to_parquet(trace: StoredTrace, folder: Path) -> None:
    """Write ``steps``, ``candidates``, ``judgements`` and ``tensors`` as Parquet files.

    ``tensors`` is the index; the tensors themselves are safetensors files already.

    Args:
        trace: what to write; all samples.
        folder: a new folder for the four files.

    Raises:
        ConfigError: pyarrow is not installed.
        OutputError: the folder exists or cannot be written; then nothing is left there.
        TraceError: the trace is damaged.
    """
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter
    except ImportError:
        raise missing("pyarrow", "Parquet", "export") from None
    with whole_folder(folder) as part:
        for name, columns in TABLES.items():
            fields = [(column, _arrow_type(pa, kind)) for column, kind in columns.items()]
            schema = pa.schema(fields)
            # A path that is no UTF-8 is none for the library.
            with (
                (part / f"{name}.parquet").open("wb") as sink,
                ParquetWriter(sink, schema) as file,
            ):
                for sample in range(len(trace.headers)):
                    table = pa.table(_columns(trace, name, sample), schema=schema)
                    file.write_table(table)


class _Arrow(Protocol):
    """What is used of pyarrow, which has no types of its own."""

    def type_for_alias(self, name: str) -> object: ...
    def list_(self, value_type: object) -> object: ...


def _arrow_type(pa: _Arrow, kind: str) -> object:
    one = pa.type_for_alias(kind.removesuffix("[]"))
    return pa.list_(one) if kind.endswith("[]") else one


def _columns(trace: StoredTrace, table: str, sample: int) -> Columns:
    """The columns of one table for one sample."""
    if table == "tensors":
        return _tensors(trace.entries(sample))
    if table == "steps":
        return _steps(sample, list(trace.steps(sample)))
    if table == "candidates":
        scored = [(s, s.candidates) for s in trace.steps(sample)]
        return _decisions(sample, scored, CANDIDATE_ARRAYS)
    judged = [(s, s.judgements) for s in trace.steps(sample) if s.judgements is not None]
    flat = {name: dtype for name, dtype in JUDGEMENT_ARRAYS.items() if name != "similarity"}
    similarity: Columns = {"similarity": [row for _, j in judged for row in j.similarity]}
    return _decisions(sample, judged, flat) | similarity


def _steps(sample: int, steps: Sequence[StepRecord]) -> Columns:
    columns: Columns = {"sample": [sample] * len(steps)}
    for name in TABLES["steps"]:
        if name != "sample":
            columns[name] = [getattr(step, name) for step in steps]
    return columns


def _decisions(
    sample: int,
    found: Sequence[tuple[StepRecord, Candidates | Judgements]],
    dtypes: Mapping[str, np.dtype],
) -> Columns:
    """Candidates or judgements of all steps, one row each."""
    counts = [len(members) for _, members in found]
    columns: Columns = {"sample": np.full(sum(counts), sample, dtype=np.int32)}
    for name in ("forward", "block", "step"):
        values = np.array([getattr(step, name) for step, _ in found], dtype=np.int32)
        columns[name] = np.repeat(values, counts)
    for name, dtype in dtypes.items():
        parts = [getattr(members, name) for _, members in found]
        columns[name] = np.concatenate([np.empty(0, dtype), *parts])
    return columns


def _tensors(entries: Sequence[TensorEntry]) -> Columns:
    return {
        "sample": [entry.sample for entry in entries],
        "forward": [entry.key.forward for entry in entries],
        "tap": [str(entry.key.tap) for entry in entries],
        "layer": [entry.key.layer for entry in entries],
        "shard": [entry.shard for entry in entries],
        "rows": [entry.rows for entry in entries],
        "width": [entry.width for entry in entries],
        "dtype": [entry.dtype for entry in entries],
        "bytes": [entry.nbytes for entry in entries],
    }


def to_perfetto(trace: StoredTrace, path: Path) -> None:
    """Write a timeline that ui.perfetto.dev opens, in the Trace Event Format.

    Each sample is a process with one track of forwards, and counters of masks left in the block,
    commits and skipped rows.

    Args:
        trace: what to write; all samples.
        path: a new file.

    Raises:
        OutputError: the file exists or cannot be written; then nothing is left there.
        TraceError: the trace is damaged.
    """
    with whole_file(path, replace=False) as part:
        samples = range(len(trace.headers))
        events = [event for sample in samples for event in _timeline(trace, sample)]
        part.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))


def _timeline(trace: StoredTrace, sample: int) -> Iterator[dict[str, object]]:
    """The events of one sample; times in microseconds since the run began."""
    common = {"pid": sample, "tid": 0}
    model = trace.headers[sample].model
    names = {"process_name": f"{model}, sample {sample}", "thread_name": "forwards"}
    for name, value in names.items():
        yield {"ph": "M", "name": name, "args": {"name": value}, **common}
    now = 0.0
    for step in trace.steps(sample):
        start, now = now, now + step.seconds * 1e6
        yield {
            "ph": "X",
            "name": f"block {step.block} step {step.step}",
            "cat": "recovery" if step.recovery else "refresh" if step.refresh else "step",
            "ts": start,
            "dur": now - start,
            "args": {
                "forward": step.forward,
                "rows": step.rows.size,
                "finished": step.finished.size,
                "committed": list(step.committed),
                "edited": list(step.edited),
                "revoked": list(step.revoked),
            },
            **common,
        }
        counters = {
            "masks": step.masks_after,
            "commits": len(step.committed),
            "skips": len(step.skipped),
        }
        for name, count in counters.items():
            yield {"ph": "C", "name": name, "ts": now, "args": {name: count}, **common}
