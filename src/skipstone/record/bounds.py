"""What the values of a trace must be, beyond their types: it may come from anywhere.

Whoever reads a record may index by its positions and look up its tokens without asking again.

Shape letters: G generation length, L canvas length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from skipstone.quoting import shown
from skipstone.record.schema import Header, Outcome, StepRecord
from skipstone.record.store import TensorEntry, shard_name

_INT32 = 1 << 31


def check_header(header: Header) -> None:
    """Check that counts are counts and ids are ids.

    Raises:
        ValueError: one is not; it is named.
    """
    for name in ("num_layers", "width", "vocab_size", "gen_length", "batch", "sample"):
        _within(name, getattr(header, name), 0, _INT32)
    for name in ("mask_id", "eos_id"):
        _within(name, getattr(header, name), -1, _INT32)
    _check_ids("prompt_ids", header.prompt_ids)


def check_outcome(outcome: Outcome) -> None:
    """Check that the numbers are counts, ids and times.

    Raises:
        ValueError: one is not; it is named.
    """
    for name in ("masks_left", "num_forwards"):
        _within(name, getattr(outcome, name), 0, _INT32)
    for name in ("skip_share", "seconds"):
        if not math.isfinite(getattr(outcome, name)):
            raise ValueError(f"{name} is not a finite number")
    _check_ids("tokens", outcome.tokens)


def check_step(header: Header, step: StepRecord) -> None:
    """Check that the arrays of a step have the lengths, and its positions are in the canvas.

    Raises:
        ValueError: something does not; it is named.
    """
    new, length = header.gen_length, len(header.prompt_ids) + header.gen_length
    for name in ("forward", "block", "step", "skip_layer"):
        _within(name, getattr(step, name), 0, _INT32)
    _within("block_start", step.block_start, 0, length + 1)
    _within("block_stop", step.block_stop, step.block_start, length + 1)
    if not math.isfinite(step.seconds):
        raise ValueError("seconds is not a finite number")
    for name in ("ids_before", "ids_after", "status_before", "status_after"):
        _sized(name, getattr(step, name), new)
    for name in ("entered_age", "finished_age"):
        _sized(name, getattr(step, name), length)
        _all_within(name, getattr(step, name), -1, _INT32)
    for name in ("ids_before", "ids_after"):
        _all_within(name, getattr(step, name), 0, _INT32)
    for name in ("rows", "finished"):
        _all_within(name, getattr(step, name), 0, length)
    if step.skip_layers is not None:
        _sized("skip_layers", step.skip_layers, step.rows.size)
        _all_within("skip_layers", step.skip_layers, 0, header.num_layers + 1)
    if step.layer_parts is not None:
        shape = header.num_layers, step.rows.size
        if step.layer_parts.shape != shape:
            raise ValueError(f"layer_parts is {list(step.layer_parts.shape)}, not {list(shape)}")
        _all_within("layer_parts", step.layer_parts, 0, 4)
    if step.first_layers is not None:
        _sized("first_layers", step.first_layers, length)
        _all_within("first_layers", step.first_layers, 0, header.num_layers + 1)
    for name in ("token", "runner_up"):
        _all_within(name, getattr(step.candidates, name), 0, _INT32)
    _all_within("candidates.position", step.candidates.position, 0, length)
    if step.judgements is not None:
        _all_within("judgements.position", step.judgements.position, 0, length)


def check_entry(entry: TensorEntry) -> None:
    """Check that a tensor is in the shards of its step, and as large as it should be.

    Raises:
        ValueError: the index says something else.
    """
    if entry.shard != shard_name(entry.sample, entry.key.forward):
        raise ValueError(f"shard {shown(entry.shard)} is not that of its step")
    for name in ("rows", "width", "nbytes", "shard_bytes"):
        _within(name, getattr(entry, name), 0, 1 << 62)
    _within("layer", entry.key.layer, 0, _INT32)


def check_tensor(
    header: Header, entry: TensorEntry, positions: np.ndarray, values: np.ndarray
) -> None:
    """Check that a tensor is what the index says, with rows that stand for positions.

    Raises:
        ValueError: it is something else.
    """
    if values.shape != (entry.rows, entry.width) or positions.shape != (entry.rows,):
        raise ValueError(f"values are {list(values.shape)}, the index says otherwise")
    if values.dtype.name != entry.dtype or values.nbytes != entry.nbytes:
        raise ValueError(f"values are {values.dtype.name}, the index says otherwise")
    if positions.dtype != np.int32:
        raise ValueError(f"positions are {positions.dtype.name}, must be int32")
    _all_within("positions", positions, 0, len(header.prompt_ids) + header.gen_length)
    if np.unique(positions).size != positions.size:
        raise ValueError("two rows stand for one position")


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value < high:
        raise ValueError(f"{name} is {value}, must be from {low} to {high - 1}")


def _check_ids(name: str, ids: Iterable[int]) -> None:
    if not all(0 <= i < _INT32 for i in ids):
        raise ValueError(f"{name} holds a number that is no token id")


def _sized(name: str, array: np.ndarray, size: int) -> None:
    if array.size != size:
        raise ValueError(f"{name} has {array.size} values, must have {size}")


def _all_within(name: str, array: np.ndarray, low: int, high: int) -> None:
    if array.size and not low <= int(array.min()) <= int(array.max()) < high:
        raise ValueError(f"{name} holds a value outside {low} to {high - 1}")
