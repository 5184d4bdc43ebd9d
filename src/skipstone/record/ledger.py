"""The rows of a trace as they are written: numbered in order, each under its checksum."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from skipstone.errors import TraceError
from skipstone.record.checksum import Checksums, ValueRow
from skipstone.record.packing import pack_arrays
from skipstone.record.plain import to_json
from skipstone.record.schema import Event, Header, Outcome, StepRecord
from skipstone.record.store import MAX_JSON, MAX_ROW, shard_name
from skipstone.record.tensors import TensorKey

# What a row has beside its arrays.
_REST = 1 << 12


@dataclass(frozen=True)
class StoredAs:
    """Where a tensor is in its shard."""

    positions: str
    """Name of its positions."""
    shard_bytes: int


class Ledger:
    """Makes the rows of one run. A row that it made has to be written, or it leaves a hole."""

    def __init__(self, run: str) -> None:
        """Begin with nothing written.

        Args:
            run: 16 hexadecimal digits that seed the checksums.
        """
        self._checksums = Checksums(run)
        self._rows = Counter[str]()
        self._steps = Counter[int]()
        self._forwards = dict[int, int]()

    def header(self, sample: int, header: Header) -> ValueRow:
        """The row of a sample whose run begins.

        Raises:
            TraceError: the header is too large.
        """
        text = _bounded(to_json(header), "header")
        return (sample, text, self._checksums.row("header", sample, text), None, None, None)

    def again(self) -> None:
        """Every step that was written is about to be replaced."""
        self._rows["steps"] = 0
        self._steps.clear()
        self._forwards.clear()

    def outcome(self, sample: int, outcome: Outcome) -> ValueRow:
        """Outcome, number of steps, checksum, and the sample whose row gets them.

        Raises:
            TraceError: the outcome is too large.
        """
        text, steps = _bounded(to_json(outcome), "outcome"), self._steps[sample]
        return (text, steps, self._checksums.row("outcome", sample, text, steps), sample)

    def step(self, sample: int, record: StepRecord) -> ValueRow:
        """The row of a step.

        Raises:
            TraceError: it does not come after the sample's last, or is too large.
        """
        last = self._forwards.get(sample, -1)
        if record.forward <= last:
            raise TraceError(
                f"forward {record.forward} of sample {sample} comes after forward {last}; the "
                f"steps of a sample are written in order, each once"
            )
        arrays = pack_arrays(record)
        if len(arrays) > MAX_ROW - _REST:
            raise TraceError(
                f"the arrays of forward {record.forward} take {len(arrays)} bytes; a trace holds "
                f"up to {MAX_ROW - _REST} a step"
            )
        row = (
            self._next("steps"),
            sample,
            int(record.forward),
            self._steps[sample],
            int(record.block),
            int(record.step),
            int(record.recovery),
            int(record.refresh),
            int(record.block_start),
            int(record.block_stop),
            int(record.skip_layer),
            float(record.seconds),
            record.positions_from,
        )
        self._steps[sample] += 1
        self._forwards[sample] = record.forward
        return (*row, self._checksums.row("steps", *row, arrays), arrays)

    def tensor(
        self,
        sample: int,
        key: TensorKey,
        positions: np.ndarray,
        values: np.ndarray,
        stored: StoredAs,
    ) -> ValueRow:
        """The row of a tensor, positions int32 [N] and values [N, W]."""
        row = (
            self._next("tensors"),
            sample,
            int(key.forward),
            str(key.tap),
            int(key.layer),
            shard_name(sample, key.forward),
            *(int(size) for size in values.shape),
            values.dtype.name,
            int(values.nbytes),
            stored.positions,
            stored.shard_bytes,
            self._checksums.tensor(sample, key, positions, values),
        )
        return (*row, self._checksums.row("tensors", *row))

    def event(self, sample: int, event: Event) -> ValueRow:
        """The row of an event.

        Raises:
            TraceError: it is too large.
        """
        row = (self._next("events"), sample, _bounded(to_json(event), "event"))
        return (*row, self._checksums.row("events", *row))

    def _next(self, table: str) -> int:
        self._rows[table] += 1
        return self._rows[table]


def _bounded(text: str, what: str) -> str:
    if len(text) > MAX_JSON:
        raise TraceError(f"the {what} takes {len(text)} bytes; a trace holds up to {MAX_JSON}")
    return text
