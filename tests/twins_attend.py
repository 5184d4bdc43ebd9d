"""Attention by kernels against its twin: run by ``test_kernels`` with TRITON_INTERPRET=1.

On a machine with a GPU: ``python -m pytest tests/twins_attend.py`` runs the compiled kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone.ops import dispatch, reference, triton_attend
from skipstone.ops.triton_attend import Tiles
from skipstone.rows import Rows
from tests.twins import DEVICE, DTYPES, assert_equal, drawn

Spans = Sequence[tuple[int, int, int]]


@pytest.fixture(autouse=True)
def _poisoned_workspaces(monkeypatch: pytest.MonkeyPatch) -> None:
    new_empty = Tensor.new_empty

    def poisoned(self: Tensor, *args: int, **options: torch.dtype) -> Tensor:
        # pyrefly: ignore[no-matching-overload]
        empty = new_empty(self, *args, **options)
        # The interpreter makes tensors of its own, of any dtype.
        return empty.fill_(torch.nan) if empty.is_floating_point() else empty

    monkeypatch.setattr(Tensor, "new_empty", poisoned)


def case(
    spans: Spans, shape: tuple[int, int, int, int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Rows]:
    """Queries, keys and values of B requests, L positions, H and U heads of width E."""
    batch, length, heads, kv_heads, width = shape
    rows = Rows.spans(spans, torch.device(DEVICE))
    q = drawn(rows.num_rows, heads, width, dtype=dtype)
    key = drawn(batch, length, kv_heads, width, dtype=dtype, seed=1)
    return q, key, drawn(batch, length, kv_heads, width, dtype=dtype, seed=2), rows


def exactly(q: Tensor, key: Tensor, value: Tensor, rows: Rows, visible: Tensor | None) -> Tensor:
    return reference.attend(q.double(), key.double(), value.double(), rows, visible)


def close(found: Tensor, twin: Tensor) -> None:
    # Weights are rounded to the dtype, as in every flash attention.
    allowed = max(4 * torch.finfo(found.dtype).eps, 5e-6)
    torch.testing.assert_close(found.double(), twin, rtol=allowed, atol=allowed)


SHAPES = {
    "one row": ([(0, 4, 5)], (1, 9, 2, 2, 16)),
    "odd": ([(0, 3, 20)], (1, 75, 1, 1, 32)),
    "ragged": ([(0, 0, 1), (2, 5, 38), (3, 9, 12)], (5, 100, 1, 1, 16)),
    "grouped": ([(0, 2, 7), (1, 0, 3)], (2, 50, 8, 2, 16)),
    "grouped by three": ([(0, 2, 19), (1, 0, 3)], (2, 34, 3, 1, 16)),
    "one key head": ([(1, 2, 9)], (2, 40, 16, 1, 32)),
    "wide": ([(0, 1, 4)], (1, 33, 1, 1, 128)),
}


@pytest.mark.parametrize(
    ("parts", "dtype"), [(1, DTYPES[0]), (2, DTYPES[0]), (2, DTYPES[1]), (5, DTYPES[0])]
)
@pytest.mark.parametrize("name", SHAPES)
def test_parts_of_the_keys(name: str, parts: int, dtype: torch.dtype) -> None:
    q, key, value, rows = case(*SHAPES[name], dtype)
    found = triton_attend.attend(q, key, value, rows, None, tiles=Tiles(16, 16, parts, 4, 2))
    close(found, exactly(q, key, value, rows, None))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*SHAPES, "many"])
def test_tiles_that_are_chosen(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = ([(0, 0, 70)], (1, 70, 1, 1, 16))
    q, key, value, rows = case(*SHAPES.get(name, many), dtype)
    monkeypatch.setattr(dispatch, "MOST_ROWS_OF_KERNEL", 1000)
    with dispatch.served_by("triton"):
        found = dispatch.attend(q, key, value, rows, None)
    close(found, exactly(q, key, value, rows, None))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_what_is_hidden_counts_nothing(parts: int, dtype: torch.dtype) -> None:
    q, key, value, rows = case([(0, 0, 2), (1, 2, 5), (2, 0, 1)], (3, 80, 1, 1, 16), dtype)
    visible = drawn(3, 80, dtype=torch.float32, seed=3) > 0
    # Request 1 sees nothing of the first parts, and request 2 the very last key.
    visible[1, :40], visible[2] = False, False
    visible[2, 79] = True
    tiles = Tiles(16, 16, parts, 4, 2)
    found = triton_attend.attend(q, key, value, rows, visible, tiles=tiles)
    close(found, exactly(q, key, value, rows, visible))
    far = torch.finfo(dtype).max
    key[~visible], value[~visible] = 3.0, far
    assert_equal(triton_attend.attend(q, key, value, rows, visible, tiles=tiles), found)


@pytest.mark.parametrize("parts", [1, 3])
def test_strided_stores_and_queries(parts: int) -> None:
    rows = Rows.spans([(0, 0, 5), (1, 2, 21)], torch.device(DEVICE))
    q = drawn(rows.num_rows, 5, 16, dtype=torch.float32)[:, 1:3]
    # Canvas before batch; and heads before both, in every second position.
    key = drawn(50, 2, 2, 16, dtype=torch.float32, seed=1).transpose(0, 1)
    value = drawn(2, 2, 100, 16, dtype=torch.float32, seed=2).permute(1, 2, 0, 3)[:, ::2]
    visible = drawn(2, 100, dtype=torch.float32, seed=3)[:, ::2] > 0
    found = triton_attend.attend(q, key, value, rows, visible, tiles=Tiles(32, 16, parts, 4, 2))
    close(found, exactly(q, key, value, rows, visible))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("counts", [(20, 0, 3), (0, 17, 0), (0, 0, 0)])
def test_rows_of_a_replay(counts: tuple[int, int, int], parts: int) -> None:
    # A graph for 60 rows of three requests, of which a replay has fewer: the tensors alone say so.
    spans = [(b, 0, 20) for b in (0, 1, 3)]
    q, key, value, rows = case(spans, (4, 40, 1, 1, 16), torch.float32)
    used = sum(counts)
    rows = replace(rows, writes_N=torch.arange(60, device=DEVICE) < used).own()
    rows.offset_A1.copy_(torch.tensor([0, *counts]).cumsum(0))
    q[used:] = torch.nan
    found = triton_attend.attend(q, key, value, rows, None, tiles=Tiles(16, 16, parts, 4, 2))
    assert not found[used:].any()
    now = [(b, 0, n) for b, n in zip((0, 1, 3), counts, strict=True) if n]
    if now:
        alone = Rows.spans(now, rows.device)
        close(found[:used], exactly(q[:used], key, value, alone, None))


def test_no_number_is_hidden() -> None:
    q, key, value, rows = case([(0, 0, 3), (1, 0, 3)], (2, 40, 2, 2, 16), torch.float32)
    key[1, 7, 0] = torch.nan
    for parts in (1, 3):
        found = triton_attend.attend(q, key, value, rows, None, tiles=Tiles(16, 16, parts, 4, 2))
        broken = found.isnan().unflatten(1, (2, 16)).all(-1)
        assert broken.tolist() == [[False, False]] * 3 + [[True, False]] * 3


def test_the_order_of_a_sum_depends_on_shapes_alone() -> None:
    assert triton_attend.tiles_for(1, 32, 32, 32, 128, 2, far=True).parts > 1
    assert triton_attend.tiles_for(64, 2048, 32, 32, 128, 2, far=True).parts == 1
    assert triton_attend.tiles_for(1, 32, 32, 32, 128, 2, far=False).parts == 1


@pytest.mark.parametrize(
    ("requests", "widest", "far", "best"),
    [
        (1, 32, False, Tiles(16, 64, 1, 4, 3)),
        (1, 32, True, Tiles(32, 64, 4, 4, 3)),
        (8, 64, False, Tiles(64, 32, 1, 4, 3)),
        (32, 32, False, Tiles(32, 64, 1, 4, 2)),
        (32, 8, False, Tiles(16, 64, 1, 4, 2)),
        (8, 512, False, Tiles(64, 64, 1, 4, 3)),
        (1, 1280, False, Tiles(64, 64, 1, 4, 3)),
    ],
)
def test_what_measured_best_is_taken(requests: int, widest: int, far: bool, best: Tiles) -> None:
    rows = requests * widest
    assert triton_attend.tiles_for(requests, rows, 32, 32, 128, 2, far=far) == best


@pytest.mark.parametrize(
    ("num_rows", "length", "far"), [(32, 255, False), (32, 256, True), (257, 4096, False)]
)
def test_keys_are_split_where_rows_are_few_and_see_far(
    num_rows: int, length: int, far: bool
) -> None:
    rows = Rows.spans([(0, 0, num_rows)], torch.device(DEVICE), lengths=[length])
    assert triton_attend.splits(rows) == far


@pytest.mark.parametrize(
    ("spans", "width", "writes", "hidden", "left"),
    [
        ([(0, 0, 64)], 16, False, False, False),
        ([(0, 0, 65)], 16, False, False, True),
        ([(0, 0, 65)], 16, True, False, False),
        ([(0, 0, 65)], 16, False, True, False),
        ([(0, 0, 65), (1, 0, 2)], 16, False, False, False),
        ([(0, 0, 2)], 8, False, False, True),
        ([(0, 0, 2)], 48, False, False, True),
    ],
)
def test_whom_attention_is_left_to(
    spans: Spans,
    width: int,
    writes: bool,
    hidden: bool,
    left: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, key, value, rows = case(spans, (2, 65, 1, 1, width), torch.float32)
    if writes:
        rows = replace(rows, writes_N=torch.ones(rows.num_rows, dtype=torch.bool, device=DEVICE))
    visible = torch.ones(2, 65, dtype=torch.bool, device=DEVICE) if hidden else None
    asked = list[tuple[object, ...]]()

    def noted(*args: object) -> None:
        asked.append(args)

    monkeypatch.setattr(triton_attend, "attend", noted)
    with dispatch.served_by("triton"):
        dispatch.attend(q, key, value, rows, visible)
    assert len(asked) == (not left)


def test_own_tensors_are_apart() -> None:
    rows = Rows.spans([(1, 0, 2), (4, 3, 6)], torch.device(DEVICE))
    assert rows.offset_A1.tolist() == [0, 2, 5]
    assert rows.offset_A1.dtype == torch.int32
    assert rows.widest == 3
    mine = replace(rows, writes_N=torch.ones(5, dtype=torch.bool, device=DEVICE)).own()
    assert mine.writes_N is not None
    assert mine.take(np.array([0, 4])).writes_N is None
    mine.offset_A1.zero_()
    mine.writes_N.zero_()
    assert rows.offset_A1.tolist() == [0, 2, 5]
