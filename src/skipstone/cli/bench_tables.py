"""The tables of ``skipstone bench``: medians, quartiles, and the median of the repetition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from skipstone.bench.cells import GenerationCell, RefreshCell, SkipCell, StepCell
from skipstone.bench.peers.beside import PeerCell
from skipstone.bench.run import Cell, Unmeasured
from skipstone.cli.tables import say_table
from skipstone.cli.terminal import say

TableColumn = tuple[str, Callable[[Any], object]]


def print_cells(cells: Sequence[Cell]) -> None:
    """One table for each kind of cell."""
    for kind, title, columns in _TABLES:
        rows = [cell for cell in cells if isinstance(cell, kind)]
        if not rows:
            continue
        say()
        say((title, "head"))
        names = [name for name, _ in columns]
        say_table(names, [[value(row) for _, value in columns] for row in rows])
        for note in dict.fromkeys(row.note for row in rows if isinstance(row, PeerCell)):
            if note:
                say(note)


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _quartiles(cell: StepCell | SkipCell | GenerationCell | RefreshCell | PeerCell) -> str:
    return f"{_ms(cell.low_ms)} to {_ms(cell.high_ms)}"


def _gb(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


_STEP: tuple[TableColumn, ...] = (
    ("batch", lambda c: c.batch),
    ("context", lambda c: c.context),
    ("rows", lambda c: c.rows),
    ("ms", lambda c: _ms(c.step_ms)),
    ("quartiles", _quartiles),
    ("again", lambda c: _ms(c.again_ms)),
    ("floor ms", lambda c: _ms(c.floor_ms)),
    ("x floor", lambda c: f"{c.times_floor:.2f}"),
    ("TB/s", lambda c: f"{c.terabytes_s:.3g}"),
    ("TFLOP/s", lambda c: f"{c.teraflops:.3g}"),
    ("more GB", lambda c: _gb(c.peak_gb)),
)
_SKIP: tuple[TableColumn, ...] = (
    ("batch", lambda c: c.batch),
    ("context", lambda c: c.context),
    ("rows", lambda c: c.rows),
    ("K", lambda c: c.skip_layer_k),
    ("went on", lambda c: f"{c.going:.1%}"),
    ("ms without", lambda c: _ms(c.plain_ms)),
    ("ms with", lambda c: _ms(c.skip_ms)),
    ("quartiles", _quartiles),
    ("times faster", lambda c: f"{c.times_faster:.2f}"),
    ("again", lambda c: f"{c.again_times_faster:.2f}"),
    ("ideal", lambda c: f"{c.ideal_times:.2f}"),
    ("of ideal", lambda c: "-" if c.share_of_ideal is None else f"{c.share_of_ideal:.0%}"),
    ("more GB", lambda c: _gb(c.peak_gb)),
)
_REFRESH: tuple[TableColumn, ...] = (
    ("positions", lambda c: c.positions),
    ("ms", lambda c: _ms(c.refresh_ms)),
    ("quartiles", _quartiles),
    ("again", lambda c: _ms(c.again_ms)),
    ("floor ms", lambda c: _ms(c.floor_ms)),
    ("TFLOP/s", lambda c: f"{c.teraflops:.3g}"),
    ("of matrix rate", lambda c: f"{c.share_of_matrix_rate:.0%}"),
)
_GENERATION: tuple[TableColumn, ...] = (
    ("generation", lambda c: c.generation),
    ("tokens a forward", lambda c: f"{c.tokens_a_forward:.3g}"),
    ("ms", lambda c: _ms(c.ms)),
    ("quartiles", _quartiles),
    ("again", lambda c: _ms(c.again_ms)),
    ("tokens/s", lambda c: f"{c.tokens_s:.4g}"),
    ("floor ms", lambda c: _ms(c.floor_ms)),
    ("x floor", lambda c: f"{c.times_floor:.2f}"),
    ("more GB", lambda c: _gb(c.peak_gb)),
)
_PEER: tuple[TableColumn, ...] = (
    ("generation", lambda c: c.generation),
    ("side", lambda c: c.side),
    ("forwards", lambda c: c.forwards),
    ("ms", lambda c: _ms(c.ms)),
    ("quartiles", _quartiles),
    ("again", lambda c: _ms(c.again_ms)),
    ("x ours", lambda c: f"{c.times_ours:.2f}"),
    ("again", lambda c: f"{c.again_times_ours:.2f}"),
    ("same tokens", lambda c: "-" if c.same_tokens is None else f"{c.same_tokens} of {c.new}"),
)
_UNMEASURED: tuple[TableColumn, ...] = (
    ("cell", lambda c: c.cell),
    ("reason", lambda c: c.reason),
)
_TABLES: tuple[tuple[type[Cell], str, Sequence[TableColumn]], ...] = (
    (StepCell, "Cached steps", _STEP),
    (SkipCell, "The same with a skip", _SKIP),
    (RefreshCell, "Refreshes", _REFRESH),
    (GenerationCell, "Whole generations, dual cache", _GENERATION),
    (PeerCell, "Beside published code, on the same weights and schedule", _PEER),
    (Unmeasured, "Not measured", _UNMEASURED),
)
