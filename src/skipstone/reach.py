"""What a model's rows see and what they score: the one place that knows how positions depend.

A row sees what stands left of its *horizon*. Under full attention that is the end of its request;
a block-causal model sees up to the end of the absolute block that a row is in, prompt included.
A row scores its own position, or, with a *score offset* of -1, the position after it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Reach:
    """How far rows see, and which positions they score."""

    block_size: int | None = None
    """Absolute blocks that see all before them and nothing after them; None: all is seen."""
    score_offset: int = 0
    """Position p is scored by row p + score_offset, and by its own row where there is none."""

    def over(self, block_length: int) -> Reach:
        """The same, with attention over other blocks; full attention stays what it is."""
        return self if self.block_size is None else replace(self, block_size=block_length)

    def end(self, position: int, length: int) -> int:
        """One past the last position that the row at ``position`` sees.

        Args:
            position: of the row.
            length: of its request.
        """
        block = self.block_size
        return length if block is None else min(length, (position // block + 1) * block)

    def horizon(self, position_N: np.ndarray, length: int) -> np.ndarray:
        """As ``end``, for many rows: int64 [N]."""
        block = self.block_size
        if block is None:
            return np.full(position_N.size, length)
        return np.minimum(length, (position_N // block + 1) * block)

    def whole(self, count: int) -> int:
        """How many of the first ``count`` positions lie in blocks that end among them.

        Their keys and values depend on nothing else. None under full attention.
        """
        return 0 if self.block_size is None else count // self.block_size * self.block_size

    def first(self, settled: int) -> int:
        """The first row whose K/V may change, where those left of ``settled`` are final."""
        return 0 if self.block_size is None else self.span(settled, settled + 1, settled + 1)[0]

    def span(self, start: int, stop: int, length: int) -> tuple[int, int]:
        """Rows that decode the positions from ``start`` up to ``stop``: the first, and the end.

        With the rows that score them. Of a block-causal model these are whole blocks: what is
        beside them in a block sees them, and is seen by them.
        """
        first, block = max(0, start + self.score_offset), self.block_size
        if block is None:
            return first, stop
        return first // block * block, self.end(stop - 1, length)

    def row_of(self, position_N: np.ndarray) -> np.ndarray:
        """The position of the row that scores each position: int64 [N]."""
        row_N = position_N + self.score_offset
        return np.where(row_N >= 0, row_N, position_N)

    def scored_by(
        self, request_N: np.ndarray, position_N: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What rows score: the index of a row, and the position it scores, int64 each.

        Sorted by request and position, as the rows are. Positions may lie beyond their request.
        """
        index = np.arange(position_N.size)
        if self.score_offset == 0:
            return index, position_N
        own = np.flatnonzero(position_N + self.score_offset < 0)
        index = np.concatenate([own, index])
        scored = np.concatenate([position_N[own], position_N - self.score_offset])
        order = np.lexsort((scored, request_N[index]))
        return index[order], scored[order]


FULL = Reach()
"""Every row sees its whole request, and scores itself."""
