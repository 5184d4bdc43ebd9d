"""The format of a trace on disk, as its writer and its reader share it; docs/traces.md tells it.

A trace is a folder: ``manifest.json``, ``trace.sqlite``, and ``shards/`` with the tensors. The
small arrays of a step are one safetensors blob in the database. Nothing is pickled.

Shape letters: C candidates, J judged rows, S compared layers.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

import numpy as np
import safetensors.numpy

from skipstone.record.schema import Candidates, Judgements, StepRecord
from skipstone.record.tensors import TensorKey

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT = "skipstone-trace"
SCHEMA = 1
MANIFEST, DATABASE, SHARDS = "manifest.json", "trace.sqlite", "shards"

TABLES = """
CREATE TABLE samples (
    sample INTEGER PRIMARY KEY, header TEXT NOT NULL, outcome TEXT
);
CREATE TABLE steps (
    sample INTEGER, forward INTEGER, block INTEGER, step INTEGER, recovery INTEGER,
    refresh INTEGER, block_start INTEGER, block_stop INTEGER, skip_layer INTEGER, seconds REAL,
    positions_from TEXT, arrays BLOB,
    crc INTEGER,
    PRIMARY KEY (sample, forward)
);
CREATE TABLE tensors (
    sample INTEGER, forward INTEGER, tap TEXT, layer INTEGER, shard TEXT, rows INTEGER,
    width INTEGER, dtype TEXT, bytes INTEGER, positions TEXT, shard_bytes INTEGER,
    PRIMARY KEY (sample, forward, tap, layer)
);
CREATE TABLE events (
    id INTEGER PRIMARY KEY, sample INTEGER, event TEXT NOT NULL
);
CREATE TABLE experiments (
    key TEXT PRIMARY KEY, created TEXT, request TEXT NOT NULL, outcome TEXT NOT NULL
);
"""

INT, FLOAT, BOOL, BYTE = (np.dtype(code) for code in ("<i4", "<f8", "?", "u1"))

STEP_ARRAYS = {
    "ids_before": INT,
    "ids_after": INT,
    "status_before": BYTE,
    "status_after": BYTE,
    "rows": INT,
    "finished": INT,
    "entered_age": INT,
    "finished_age": INT,
}
CANDIDATE_ARRAYS = {
    "position": INT,
    "token": INT,
    "confidence": FLOAT,
    "runner_up": INT,
    "runner_up_confidence": FLOAT,
    "rank": INT,
    "bound": FLOAT,
    "age": INT,
    "eligible": BOOL,
    "committed": BOOL,
}
JUDGEMENT_ARRAYS = {
    "position": INT,
    "similarity": FLOAT,
    "smallest": FLOAT,
    "mean": FLOAT,
    "stable": BOOL,
    "forced": BOOL,
    "reference_position": INT,
    "reference_forward": INT,
}
_CODES = {INT: "I32", FLOAT: "F64", BOOL: "BOOL", BYTE: "U8"}

T = TypeVar("T", bound="DataclassInstance")


@dataclass(frozen=True)
class Manifest:
    """What a trace is; written once, when the run begins."""

    format: str
    schema: int
    created: str
    """UTC, ISO 8601."""
    skipstone: str
    """The version that wrote it."""
    level: str
    samples: int


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies."""

    sample: int
    key: TensorKey
    shard: str
    """File name in ``shards/``."""
    rows: int
    width: int
    dtype: str
    nbytes: int
    """Of the values."""
    positions: str
    """Name of the positions in the shard; tensors with equal positions share them."""
    shard_bytes: int
    """Size of the whole shard."""

    @property
    def values(self) -> str:
        """Name of the values in the shard."""
        return f"{self.key.tap}.{self.key.layer}.values"


@dataclass(frozen=True)
class Experiment:
    """What an experiment on the run was asked, and what it found; both JSON texts."""

    key: str
    request: str
    outcome: str


def pack_step(record: StepRecord) -> bytes:
    """All arrays of a step as one safetensors blob."""
    owners: list[tuple[object, str, dict[str, np.dtype]]] = [
        (record, "", STEP_ARRAYS),
        (record.candidates, "candidates.", CANDIDATE_ARRAYS),
    ]
    if record.judgements is not None:
        owners.append((record.judgements, "judgements.", JUDGEMENT_ARRAYS))
    return _pack(
        {
            prefix + name: getattr(owner, name).astype(dtype, copy=False)
            for owner, prefix, dtypes in owners
            for name, dtype in dtypes.items()
        }
    )


def _pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A safetensors blob of small arrays.

    The library's own ``save`` takes 110 us for the 26 arrays of a step, more than all the rest of
    writing it down; this takes 25.
    """
    entries, parts, stop = list[str](), list[bytes](), 0
    for name, array in arrays.items():
        data = array.tobytes()
        start, stop = stop, stop + len(data)
        shape = ",".join(map(str, array.shape))
        entries.append(
            f'"{name}":{{"dtype":"{_CODES[array.dtype]}","shape":[{shape}],'
            f'"data_offsets":[{start},{stop}]}}'
        )
        parts.append(data)
    head = f"{{{','.join(entries)}}}".encode()
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])


def unpack_step(
    forward: object,
    block: object,
    step: object,
    recovery: object,
    refresh: object,
    block_start: object,
    block_stop: object,
    skip_layer: object,
    seconds: object,
    positions_from: object,
    arrays: object,
    crc: object,
) -> StepRecord:
    """A step from its row of the table.

    Raises:
        KeyError, ValueError, SafetensorError: the row is damaged.
    """
    if not isinstance(arrays, bytes):
        raise ValueError(f"arrays are {type(arrays).__name__}, must be a blob")
    if crc32(arrays) != crc:
        raise ValueError("its checksum is wrong")
    found = safetensors.numpy.load(arrays)
    judgements = None
    if "judgements.position" in found:
        judgements = Judgements(**_columns(found, "judgements.", JUDGEMENT_ARRAYS))
    return StepRecord(
        forward=whole(forward),
        block=whole(block),
        step=whole(step),
        recovery=bool(whole(recovery)),
        refresh=bool(whole(refresh)),
        block_start=whole(block_start),
        block_stop=whole(block_stop),
        **_take(found, "", STEP_ARRAYS),
        candidates=Candidates(**_columns(found, "candidates.", CANDIDATE_ARRAYS)),
        judgements=judgements,
        skip_layer=whole(skip_layer),
        seconds=number(seconds),
        positions_from=text(positions_from),
    )


def whole(value: object) -> int:
    """A value of the database that must be a whole number.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, int):
        raise ValueError(f"{value!r} is no whole number")
    return value


def number(value: object) -> float:
    """A value of the database that must be a number.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def text(value: object) -> str:
    """A value of the database that must be text.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _take(
    found: Mapping[str, np.ndarray], prefix: str, dtypes: Mapping[str, np.dtype]
) -> dict[str, np.ndarray]:
    taken = {name: found[prefix + name] for name in dtypes}
    for name, array in taken.items():
        if array.dtype != dtypes[name] or array.ndim != (2 if name == "similarity" else 1):
            raise ValueError(f"array {prefix}{name} is {array.dtype.name} {list(array.shape)}")
    return taken


def _columns(
    found: Mapping[str, np.ndarray], prefix: str, dtypes: Mapping[str, np.dtype]
) -> dict[str, np.ndarray]:
    """Arrays of one length."""
    taken = _take(found, prefix, dtypes)
    if len({array.shape[0] for array in taken.values()}) > 1:
        raise ValueError(f"the columns {prefix}* have different lengths")
    return taken


def to_json(value: DataclassInstance) -> str:
    """A header, outcome, event or manifest as JSON."""
    return json.dumps(asdict(value))


def manifest_version(found: str) -> tuple[str, int, str]:
    """Format, schema and writer of a manifest, which may be from a newer version.

    Raises:
        ValueError: it is no JSON object, or has none of these.
    """
    values = _object(found)
    kind, schema, version = (values.get(name) for name in ("format", "schema", "skipstone"))
    return text(kind), whole(schema), text(version)


def from_json(kind: type[T], found: str) -> T:
    """What ``to_json`` wrote.

    Raises:
        ValueError: it is no JSON object, or its fields are not those of ``kind``.
    """
    hints = typing.get_type_hints(kind)
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in _object(found).items()}
    for name, value in values.items():
        if name not in hints or not _fits(value, hints[name]):
            raise ValueError(f"{name!r} is no field of {kind.__name__}, or has a wrong value")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _object(found: str) -> dict[str, object]:
    try:
        values = json.loads(found)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"holds a {type(values).__name__}, must be a JSON object")
    return values


def _fits(value: object, hint: object) -> bool:
    """Whether a value read from JSON has the type of its field."""
    kind = typing.get_origin(hint) or hint
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if isinstance(value, tuple):
        return kind is tuple and all(_fits(v, typing.get_args(hint)[0]) for v in value)
    if isinstance(value, dict):
        return kind is dict and all(_fits(v, typing.get_args(hint)[1]) for v in value.values())
    return isinstance(value, int | float if kind is float else typing.cast("type", kind))
