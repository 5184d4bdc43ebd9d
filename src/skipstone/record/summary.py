"""A run in a few numbers: its blocks, and the tensors that were kept of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from skipstone.record.reader import StoredTrace
from skipstone.record.schema import RunRecord
from skipstone.record.store import DATABASE, TensorEntry


@dataclass(frozen=True)
class BlockSummary:
    """The work on one block."""

    block: int
    steps: int
    forwards: int
    """More than the steps if some were repeated over all rows."""
    refreshes: int
    rows: int
    """Rows that entered layer 1, over all forwards."""
    skipped: int
    """How many of them left before the deep layers."""
    committed: int
    """Masks."""
    edited: int
    """Times that a committed token was replaced by another."""
    revoked: int
    """Times that a committed token became a mask again."""
    masks_left: int
    """In the block, after its last step."""
    seconds: float

    @property
    def skip_share(self) -> float:
        """Rows that skipped, as a share of those that entered."""
        return self.skipped / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class TapSummary:
    """What was kept of one tap."""

    tap: str
    tensors: int
    forwards: int
    first_layer: int
    last_layer: int
    dtypes: tuple[str, ...]
    nbytes: int


def summarise_blocks(record: RunRecord) -> list[BlockSummary]:
    """One summary for each block, in the order in which they were decoded."""
    summaries = list[BlockSummary]()
    for block, group in groupby(record.steps, key=lambda step: step.block):
        steps = list(group)
        summaries.append(
            BlockSummary(
                block=block,
                steps=len({step.step for step in steps}),
                forwards=len(steps),
                refreshes=sum(step.refresh for step in steps),
                rows=sum(step.rows.size for step in steps),
                skipped=sum(len(step.skipped) for step in steps),
                committed=sum(len(step.committed) - len(step.edited) for step in steps),
                edited=sum(len(step.edited) - len(step.revoked) for step in steps),
                revoked=sum(len(step.revoked) for step in steps),
                masks_left=steps[-1].masks_after,
                seconds=sum(step.seconds for step in steps),
            )
        )
    return summaries


def summarise_taps(entries: Iterable[TensorEntry]) -> list[TapSummary]:
    """One summary for each tap, by name."""
    by_tap = sorted(entries, key=lambda entry: entry.key.tap)
    summaries = list[TapSummary]()
    for tap, group in groupby(by_tap, key=lambda entry: entry.key.tap):
        members = list(group)
        layers = [entry.key.layer for entry in members]
        summaries.append(
            TapSummary(
                tap=str(tap),
                tensors=len(members),
                forwards=len({entry.key.forward for entry in members}),
                first_layer=min(layers),
                last_layer=max(layers),
                dtypes=tuple(sorted({entry.dtype for entry in members})),
                nbytes=sum(entry.nbytes for entry in members),
            )
        )
    return summaries


def trace_bytes(trace: StoredTrace) -> int:
    """What a trace takes on disk: the database, and the shards as the index has them."""
    samples = range(len(trace.headers))
    shards = {e.shard: e.shard_bytes for sample in samples for e in trace.entries(sample)}
    return sum(shards.values()) + (trace.path / DATABASE).stat().st_size
