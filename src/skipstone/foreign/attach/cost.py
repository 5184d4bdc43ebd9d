"""What measuring and skipping cost, said with the figures of the run.

Shape letters: N rows, I inputs, O outputs of a product.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipstone.foreign.shared.source import line_of
from skipstone.record import Event

Reads = Counter[tuple[str, int]]
"""Values that the host waited for, by file and line."""

# Operations in the time of one byte read, on an H100: 786 TFLOP/s in bfloat16 over 2.97 TB/s, both
# measured for matrix products. The ratio is much the same for other GPUs of a data centre.
_OPERATIONS_PER_BYTE = 265

# A loop that reads fewer values a step than this is no loop over tokens.
_MANY_READS = 64
# Time outside the model that is worth a word, as a share of all.
_LARGE_SHARE = 0.1
_REPEATS = 5


@dataclass(eq=False)
class TimeSpent:
    """Where the time of a run went, our own left out."""

    forwards: int = 0
    inside: float = 0.0
    """Seconds in calls of the model."""
    between: float = 0.0
    """Seconds between them."""
    reads_between: Reads = field(default_factory=Counter)
    reads_inside: Reads = field(default_factory=Counter)


def measuring_cost(clock: TimeSpent) -> list[Event]:
    """Advice on loops that read values one by one, between the calls or inside of them."""
    events = list[Event]()
    steps = max(1, clock.forwards)
    total = clock.between + clock.inside
    reads = clock.reads_between.total() / steps
    if reads >= _MANY_READS and clock.between >= _LARGE_SHARE * total:
        line, most = _most(clock.reads_between)
        between, inside = clock.between / steps, clock.inside / steps
        numbers = {"seconds_between": between, "seconds_inside": inside, "reads_per_step": reads}
        numbers["share"] = clock.between / total
        events.append(
            Event(
                kind="measuring_cost",
                message=(
                    f"between two calls of the model pass {1e3 * between:.1f} ms, in a call "
                    f"{1e3 * inside:.1f} ms: {clock.between / total:.0%} of the time is spent "
                    f"outside of the model, with {reads:.0f} values read one by one in a step "
                    f"({most} in all on this line); compare all rows and layers at once and read "
                    f"the result once"
                ),
                source=line,
                numbers=numbers,
                count=most,
            )
        )
    inner = clock.reads_inside.total() / steps
    if inner >= _MANY_READS:
        line, most = _most(clock.reads_inside)
        events.append(
            Event(
                kind="host_reads_in_forward",
                message=(
                    f"a call of the model reads {inner:.0f} values one by one ({most} in all on "
                    f"this line); on a GPU each waits until everything before it is done"
                ),
                source=line,
                numbers={"reads_per_call": inner},
                count=most,
            )
        )
    return events


def _most(reads: Reads) -> tuple[str, int]:
    """The line with the most reads, and how many."""
    by_line = Counter[str]()
    for (filename, line), count in reads.items():
        by_line[line_of(filename, line)] += count
    return by_line.most_common(1)[0]


def skip_cost(layers: Sequence[nn.Module], rows: int, skipped: int, calls: int) -> Event | None:
    """Whether rows that leave early can save time at this size.

    Args:
        layers: of the model; the products of one are timed.
        rows: of a usual call, over all prompts of the batch.
        skipped: row-layers that were not computed in the run.
        calls: that could skip.

    Returns:
        None if a call has enough rows for its time to go with their number.
    """
    weights = [p for p in layers[-1].parameters() if p.ndim == 2]
    if not weights:
        return None
    size = weights[0].element_size()
    # A row takes two operations for each weight, and a weight is read once for all rows.
    enough = _OPERATIONS_PER_BYTE * size // 2
    all_rows, few_rows = _seconds(weights, rows), _seconds(weights, max(1, rows // 4))
    on_gpu = weights[0].device.type != "cpu"
    saves = few_rows < 0.7 * all_rows if on_gpu else rows >= enough
    if saves:
        return None
    dtype = str(weights[0].dtype).removeprefix("torch.")
    return Event(
        kind="skip_cannot_pay",
        message=(
            f"a call has {rows} rows in all: {2 * rows / size:.0f} operations for each byte of "
            f"weights it reads, where a GPU such as an H100 does {_OPERATIONS_PER_BYTE} in that "
            f"time; below about {enough} rows it waits for the weights, and rows that skip save "
            f"it nothing. {skipped} row-layers were skipped in {calls} calls; on this machine "
            f"({weights[0].device.type}, {dtype}) the products of one layer take "
            f"{1e3 * all_rows:.2f} ms for {rows} rows and {1e3 * few_rows:.2f} ms for "
            f"{max(1, rows // 4)}"
        ),
        numbers={
            "rows": rows,
            "rows_needed": enough,
            "skipped_row_layers": skipped,
            "seconds_all_rows": all_rows,
            "seconds_quarter": few_rows,
        },
    )


@torch.no_grad()
def _seconds(weights: Sequence[Tensor], rows: int) -> float:
    """Time of the products of one layer for so many rows; draws no random numbers."""
    inputs = [w_OI.new_ones(rows, w_OI.shape[1]) for w_OI in weights]
    times = list[float]()
    for _ in range(_REPEATS + 1):
        _wait(weights[0])
        started = time.perf_counter()
        for x_NI, w_OI in zip(inputs, weights, strict=True):
            F.linear(x_NI, w_OI)
        _wait(weights[0])
        times.append(time.perf_counter() - started)
    # The first one warms up.
    return statistics.median(times[1:])


def _wait(like: Tensor) -> None:
    if like.is_cuda:
        torch.cuda.synchronize(like.device)
