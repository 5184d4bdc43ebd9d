"""Tensors in safetensors files, one file for each step that has any."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes  # noqa: F401 (numpy learns bfloat16 from it)
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from skipstone.errors import TraceError
from skipstone.quoting import shown
from skipstone.record.bounds import check_tensor
from skipstone.record.checksum import Checksums
from skipstone.record.folder import plain_file
from skipstone.record.ledger import StoredAs
from skipstone.record.schema import Header, StepRecord
from skipstone.record.store import MAX_SHARD_HEADER, TensorEntry
from skipstone.record.tensors import TensorKey
from skipstone.record.trace import Tensors

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
"""Of values, as safetensors and NumPy call them."""


def read_tensor(
    path: Path,
    entry: TensorEntry,
    step: StepRecord,
    header: Header,
    checksums: Checksums | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions, int32 [N], and values [N, W] of one tensor.

    Args:
        path: the file.
        entry: what the index says about the tensor.
        step: the step it belongs to.
        header: of its sample.
        checksums: of the run; None if it has none.

    Raises:
        TraceError: the file is missing, cut off, or no plain file.
        ValueError, SafetensorError, OSError: it holds something else.
    """
    _check_size(path, entry, step)
    _check_header(path)
    with safe_open(path, framework="np") as file:
        for name, allowed in ((entry.positions, ("I32",)), (entry.values, _DTYPES)):
            if file.get_slice(name).get_dtype() not in allowed:
                raise ValueError(f"{shown(name)} is none of {', '.join(allowed)}")
        positions, values = file.get_tensor(entry.positions), file.get_tensor(entry.values)
    check_tensor(header, entry, positions, values)
    if checksums is not None:
        found = checksums.tensor(entry.sample, entry.key, positions, values)
        if found != entry.content:
            raise ValueError("its checksum is wrong")
    return positions, values


def _check_size(path: Path, entry: TensorEntry, step: StepRecord) -> None:
    file = plain_file(path)
    if file is not None and file.st_size == entry.shard_bytes:
        return
    what = "is missing" if file is None else f"has {file.st_size} bytes"
    raise TraceError(
        f"{path} {what}, must have {entry.shard_bytes} bytes; it holds the tensors of forward "
        f"{step.forward} (block {step.block}, step {step.step}); copy it again; the other steps "
        f"can be read"
    )


def _check_header(path: Path) -> None:
    """Refuse a header that would take much memory to take apart.

    Raises:
        ValueError: it claims to be large.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > MAX_SHARD_HEADER:
        raise ValueError(f"its header claims {size} bytes, more than {MAX_SHARD_HEADER}")


def write_shard(path: Path, tensors: Tensors, mode: int) -> dict[TensorKey, StoredAs]:
    """Write the tensors of a step into a file that is complete as soon as it has its name.

    Args:
        path: of the file.
        tensors: positions, int32 [N], and values [N, W] of each.
        mode: permissions of the file.

    Raises:
        TraceError: values of a tensor are no floating-point numbers.
        OSError, SafetensorError: the disk refuses; nothing is left behind.
    """
    arrays, homes = dict[str, np.ndarray](), dict[bytes, str]()
    names = dict[TensorKey, str]()
    for key, (positions, values) in tensors.items():
        if values.dtype.name not in _DTYPES.values():
            raise TraceError(
                f"values of {key} are {values.dtype.name}; a trace holds "
                f"{', '.join(_DTYPES.values())}"
            )
        names[key] = homes.setdefault(positions.tobytes(), f"{key.tap}.{key.layer}.positions")
        arrays[names[key]] = np.ascontiguousarray(positions)
        arrays[f"{key.tap}.{key.layer}.values"] = np.ascontiguousarray(values)
    part = path.with_name(f"{path.name}.part")
    try:
        save_file(arrays, part)
        # The library lets nobody but the owner read it; the database follows the umask.
        part.chmod(mode)
        size = part.stat().st_size
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return {key: StoredAs(name, size) for key, name in names.items()}
