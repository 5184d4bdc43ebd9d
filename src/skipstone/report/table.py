"""Tables of numbers that travel in a page: packed columns, read again by the page's script.

A table belongs to a view. Its rows are grouped by step, so that the page draws one step at a time
and never unpacks more than that. A dense table does not store its axes: they are counted.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Word = Callable[[str], str]
"""The text of a key in the reader's language."""

CellValue = int | float | str | None
TableRow = dict[str, CellValue]


@dataclass(frozen=True, eq=False)
class Column:
    """Stored numbers, and what they stand for: ``start + scale * number``, or a label."""

    numbers: np.ndarray
    """[N], of a dtype that every browser knows: uint8, uint16, int32, float32, float64."""
    scale: float = 1.0
    start: float = 0.0
    missing: int | None = None
    """The number that stands for nothing; NaN always does."""
    labels: tuple[str, ...] = ()
    """Keys of words, if the numbers count them."""
    texts: tuple[str, ...] = ()
    """Texts that are the same in every language, such as tokens."""

    def cell(self, index: int, word: Word) -> CellValue:
        """What stands at an index."""
        number = self.numbers[index].item()
        if number != number or number == self.missing:
            return None
        if self.labels:
            return word(self.labels[number])
        if self.texts:
            return self.texts[number]
        return number if self.scale == 1 and self.start == 0 else self.start + self.scale * number

    def packed(self) -> dict[str, object]:
        """For the page's script."""
        numbers = np.ascontiguousarray(self.numbers, self.numbers.dtype.newbyteorder("<"))
        return {
            "dtype": self.numbers.dtype.name,
            "data": base64.b64encode(zlib.compress(numbers.tobytes(), 9)).decode("ascii"),
            "scale": self.scale,
            "start": self.start,
            "missing": self.missing,
            "labels": list(self.labels),
            "texts": list(self.texts),
        }


@dataclass(frozen=True)
class Axis:
    """A counted column: row i has ``i // repeat % count``, or what that number stands for."""

    count: int
    repeat: int = 1
    labels: tuple[str, ...] = ()
    """Keys of words, if the numbers count them."""
    texts: tuple[str, ...] = ()
    """Texts that are the same in every language."""

    def cell(self, index: int, word: Word) -> CellValue:
        """What stands at an index."""
        number = index // self.repeat % self.count
        if self.labels:
            return word(self.labels[number])
        return self.texts[number] if self.texts else number

    def packed(self) -> dict[str, object]:
        """For the page's script."""
        return {
            "count": self.count,
            "repeat": self.repeat,
            "labels": list(self.labels),
            "texts": list(self.texts),
        }


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length, and where the rows of each step begin."""

    columns: Mapping[str, Column | Axis]
    ends: Sequence[int]
    """Index after the last row of each step; one number if the rows belong to no step."""
    needs: str = ""
    """A column; rows that have nothing in it are left out."""

    def rows(self, word: Word, step: int = 0) -> list[TableRow]:
        """The rows of one step."""
        return [
            row for row in self._rows(word, step) if not self.needs or row[self.needs] is not None
        ]

    def _rows(self, word: Word, step: int) -> Iterator[TableRow]:
        first = self.ends[step - 1] if step else 0
        for i in range(first, self.ends[step]):
            yield {name: column.cell(i, word) for name, column in self.columns.items()}

    def packed(self) -> dict[str, object]:
        """For the page's script."""
        columns = {name: column.packed() for name, column in self.columns.items()}
        return {"columns": columns, "ends": list(self.ends), "needs": self.needs}


def whole(values: Sequence[int] | np.ndarray) -> Column:
    """Whole numbers; -1 stands for nothing."""
    numbers = np.asarray(values, dtype=np.int64)
    if numbers.size and numbers.max() >= np.iinfo(np.uint16).max:
        return Column(numbers.astype(np.int32), missing=-1)
    missing = np.iinfo(np.uint16).max
    return Column(np.where(numbers < 0, missing, numbers).astype(np.uint16), missing=missing)


def exact(values: Sequence[float] | np.ndarray) -> Column:
    """Numbers to seven digits; NaN stands for nothing."""
    return Column(np.asarray(values, dtype=np.float32))


def precise(values: Sequence[float] | np.ndarray) -> Column:
    """Numbers as they are, for those that crowd; NaN stands for nothing."""
    return Column(np.asarray(values, dtype=np.float64))


def coarse(values: np.ndarray, low: float, high: float, levels: int = 128) -> Column:
    """Numbers to one of some levels between two bounds; NaN stands for nothing."""
    scale = (high - low) / (levels - 1)
    with np.errstate(invalid="ignore"):
        level = np.rint((np.clip(values, low, high) - low) / scale)
    numbers = np.where(np.isnan(values), 255, level).astype(np.uint8)
    return Column(numbers, scale=scale, start=low, missing=255)


def coded(values: Sequence[int] | np.ndarray, labels: Sequence[str]) -> Column:
    """Numbers that count the keys of words; -1 stands for nothing."""
    numbers = np.asarray(values, dtype=np.int64)
    return Column(
        np.where(numbers < 0, 255, numbers).astype(np.uint8), missing=255, labels=tuple(labels)
    )


def lettered(values: Sequence[int] | np.ndarray, letters: Sequence[str]) -> Column:
    """Numbers that count runs."""
    return Column(np.asarray(values, dtype=np.uint8), texts=tuple(letters))


def named(values: Sequence[str]) -> Column:
    """Texts as they are, each stored once."""
    texts = tuple(sorted(set(values)))
    index = {text: i for i, text in enumerate(texts)}
    return Column(np.array([index[text] for text in values], dtype=np.int32), texts=texts)


def ends_of(steps: Sequence[int] | np.ndarray, count: int) -> list[int]:
    """Where the rows of each step end, of rows in order of their steps."""
    return np.searchsorted(np.asarray(steps, dtype=np.int64), np.arange(count), "right").tolist()
