"""Which row scores a position, at the left end of a canvas."""

from __future__ import annotations

import numpy as np
import pytest

from skipstone.reach import Reach


@pytest.mark.parametrize(
    ("offset", "rows"), [(0, [0, 1, 2, 3]), (-1, [0, 0, 1, 2]), (-2, [0, 1, 0, 1])]
)
def test_a_position_without_a_row_before_it_is_scored_by_its_own(
    offset: int, rows: list[int]
) -> None:
    reach, positions = Reach(score_offset=offset), np.arange(4)
    assert reach.row_of(positions).tolist() == rows
    # The other way round, each of these rows is said to score that position.
    index, scored = reach.scored_by(np.zeros(4, np.int64), positions)
    pairs = set(zip(positions[index].tolist(), scored.tolist(), strict=True))
    assert pairs >= set(zip(rows, range(4), strict=True))
