"""Rows of a database to records and back: a step, whose arrays are one blob, and a tensor's entry.

Shape letters: C candidates, J judged rows, S compared layers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import safetensors.numpy

from skipstone.record.candidates import Candidates
from skipstone.record.judgements import Judgements
from skipstone.record.plain import blob, number, text, whole
from skipstone.record.schema import StepRecord
from skipstone.record.store import TensorEntry
from skipstone.record.tensors import Tap, TensorKey

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
    "entropy": FLOAT,
    "drift": FLOAT,
    "age": INT,
    "eligible": BOOL,
    "committed": BOOL,
}
WHERE_ROWS_LEFT = {"skip_layers": INT}
"""Arrays of a step that are only there where rows left; older versions have none."""
WHERE_ASKED_FOR = ("entropy", "drift")
"""Arrays of candidates that are only there where a policy asked for them."""
LAYER_ARRAYS = {"layer_parts": BYTE, "first_layers": INT}
"""Arrays of a step that are only there where a cache policy left rows out of layers, or had rows
join before one."""
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
_TABLES = ("similarity", "layer_parts")
"""Arrays with two dimensions."""
_CODES = {INT: "I32", FLOAT: "F64", BOOL: "BOOL", BYTE: "U8"}


def pack_arrays(record: StepRecord) -> bytes:
    """All arrays of a step as one safetensors blob."""
    told = dict(CANDIDATE_ARRAYS)
    for name in WHERE_ASKED_FOR:
        if np.isnan(getattr(record.candidates, name)).all():
            del told[name]
    of_step = STEP_ARRAYS if record.skip_layers is None else STEP_ARRAYS | WHERE_ROWS_LEFT
    owners: list[tuple[object, str, dict[str, np.dtype]]] = [
        (record, "", of_step),
        (record.candidates, "candidates.", told),
    ]
    by_layer = {n: dtype for n, dtype in LAYER_ARRAYS.items() if getattr(record, n) is not None}
    owners.append((record, "", by_layer))
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


def unpack_step(forward: object, *rest: object) -> StepRecord:
    """A step from the values of its row.

    Args:
        forward: of the step.
        rest: block, step, recovery, refresh, block_start, block_stop, skip_layer, seconds,
            positions_from, and the arrays.

    Raises:
        LookupError, ValueError, SafetensorError: the row is damaged.
    """
    *numbers, seconds, positions_from, arrays = rest
    block, step, recovery, refresh, block_start, block_stop, skip_layer = map(whole, numbers)
    found = safetensors.numpy.load(blob(arrays))
    left = {name: dtype for name, dtype in WHERE_ROWS_LEFT.items() if name in found}
    judgements = None
    if "judgements.position" in found:
        judgements = Judgements(**_columns(found, "judgements.", JUDGEMENT_ARRAYS))
    by_layer = {name: dtype for name, dtype in LAYER_ARRAYS.items() if name in found}
    return StepRecord(
        forward=whole(forward),
        block=block,
        step=step,
        recovery=bool(recovery),
        refresh=bool(refresh),
        block_start=block_start,
        block_stop=block_stop,
        **_take(found, "", STEP_ARRAYS | left | by_layer),
        candidates=Candidates(**_columns(_with_all(found), "candidates.", CANDIDATE_ARRAYS)),
        judgements=judgements,
        skip_layer=skip_layer,
        seconds=number(seconds),
        positions_from=text(positions_from),
    )


def unpack_entry(
    sample: object, forward: object, tap: object, layer: object, shard: object, *rest: object
) -> TensorEntry:
    """What the index says about one tensor, from the values of its row.

    Args:
        sample: that the tensor belongs to; with ``forward``, ``tap`` and ``layer`` its key.
        forward: of its step.
        tap: what it is.
        layer: where it was taken.
        shard: its file.
        rest: rows, width, dtype, bytes, positions, shard_bytes, and the checksum of its content.

    Raises:
        ValueError: the row is damaged.
    """
    rows, width, dtype, nbytes, positions, shard_bytes, content = rest
    return TensorEntry(
        sample=whole(sample),
        key=TensorKey(whole(forward), Tap(text(tap)), whole(layer)),
        shard=text(shard),
        rows=whole(rows),
        width=whole(width),
        dtype=text(dtype),
        nbytes=whole(nbytes),
        positions=text(positions),
        shard_bytes=whole(shard_bytes),
        content=blob(content),
    )


def _with_all(found: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The arrays of a step, with those that nobody asked for."""
    missing = np.full(found["candidates.position"].shape[:1], np.nan)
    return {**{f"candidates.{name}": missing for name in WHERE_ASKED_FOR}, **found}


def _take(
    found: Mapping[str, np.ndarray], prefix: str, dtypes: Mapping[str, np.dtype]
) -> dict[str, np.ndarray]:
    taken = {name: found[prefix + name] for name in dtypes}
    for name, array in taken.items():
        if array.dtype != dtypes[name] or array.ndim != (2 if name in _TABLES else 1):
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
