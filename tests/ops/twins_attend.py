"""Attention by kernels against its twin: run by ``test_kernels`` with TRITON_INTERPRET=1.

On a machine with a GPU: ``python -m pytest tests/ops/twins_attend.py`` runs the compiled kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone.ops import backend
from skipstone.ops.model import attention_work, dispatch, reference, triton_attend
from skipstone.ops.model.attention_work import Tiles
from skipstone.rows import Rows
from tests.ops.twins import DEVICE, DTYPES, assert_equal, drawn

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
    """Queries, keys and values of B requests, L positions, H and U heads of width E.

    Request b begins in cell b L.
    """
    batch, length, heads, kv_heads, width = shape
    rows = placed(spans, length)
    q = drawn(rows.num_rows, heads, width, dtype=dtype)
    key = drawn(batch * length, kv_heads, width, dtype=dtype, seed=1)
    return q, key, drawn(batch * length, kv_heads, width, dtype=dtype, seed=2), rows


def placed(spans: Spans, length: int) -> Rows:
    """Rows of requests of one length, each behind the other."""
    bases = [request * length for request, _, _ in spans]
    return Rows.spans(spans, torch.device(DEVICE), lengths=[length] * len(spans), bases=bases)


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
    with backend.served_by("triton"):
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
    hidden = ~visible.flatten()
    key[hidden], value[hidden] = 3.0, far
    assert_equal(triton_attend.attend(q, key, value, rows, visible, tiles=tiles), found)


@pytest.mark.parametrize("parts", [1, 3])
def test_strided_stores_and_queries(parts: int) -> None:
    rows = placed([(0, 0, 5), (1, 2, 21)], 50)
    q = drawn(rows.num_rows, 5, 16, dtype=torch.float32)[:, 1:3]
    # Heads before cells, of which every second one is used.
    key = drawn(100, 3, 16, dtype=torch.float32, seed=1)[:, 1:]
    value = drawn(2, 200, 16, dtype=torch.float32, seed=2).transpose(0, 1)[::2]
    visible = drawn(2, 100, dtype=torch.float32, seed=3)[:, ::2] > 0
    found = triton_attend.attend(q, key, value, rows, visible, tiles=Tiles(32, 16, parts, 4, 2))
    close(found, exactly(q, key, value, rows, visible))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("counts", [(20, 0, 3), (0, 17, 0), (0, 0, 0)])
def test_rows_of_a_replay(counts: tuple[int, int, int], parts: int) -> None:
    # A graph for 60 rows, of which a replay has fewer: the tensors alone say so.
    used = sum(counts)
    spans = [(b, 0, n) for b, n in zip((0, 1, 3), counts, strict=True) if n]
    q, key, value, rows = case(spans, (4, 40, 1, 1, 16), torch.float32)
    tiles = Tiles(16, 16, parts, 4, 2, least_keys=16)
    static = Rows.static(60, 40, 9, torch.device(DEVICE))
    static.where_4N[:, :used] = rows.where_4N
    assert static.work_W8 is not None
    work = attention_work.pieces(rows, tiles, 1, 1, num_rows=60, room=9)
    static.work_W8.copy_(torch.from_numpy(work))
    q = torch.cat([q, torch.full((60 - used, 1, 16), torch.nan, device=DEVICE)])
    found = triton_attend.attend(q, key, value, static, None, tiles=tiles)
    assert not found[used:].any()
    close(found[:used], exactly(q[:used], key, value, rows, None))


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("group", [1, 2, 16])
def test_pieces_cover_every_row_and_every_key_that_it_sees_once(group: int, parts: int) -> None:
    random = np.random.default_rng(parts)
    for _ in range(30):
        starts = random.integers(0, 40, size=random.integers(1, 9))
        spans = [(b, int(s), int(s + random.integers(1, 90))) for b, s in enumerate(starts)]
        lengths = [stop + int(random.integers(0, 300)) for _, _, stop in spans]
        rows = Rows.spans(
            spans, torch.device("cpu"), lengths=lengths, bases=[7 * b for b in starts]
        )
        num_rows = rows.num_rows + int(random.integers(0, 70))
        tiles = Tiles(32, 16, parts, 4, 2)
        found = attention_work.pieces(rows, tiles, group, group, num_rows=num_rows, room=800)
        seen = np.zeros((num_rows, max(lengths)), int)
        for first, stop, base, begin, end, nearest, part, of in found:
            assert stop - first <= 32 // group
            assert part < max(1, of) <= parts
            seen[first:stop, begin:end] += 1
            mine = slice(first, min(stop, rows.num_rows))
            assert (rows.base[mine] == base).all()
            assert not part or end - begin >= 16
            assert first == stop or rows.num_rows <= first or nearest == rows.horizon[mine].min()
        inside = (
            np.arange(max(lengths)) < np.pad(rows.horizon, (0, num_rows - rows.num_rows))[:, None]
        )
        assert (seen == inside).all()


@pytest.mark.parametrize("horizon", [[3, 9, 9, 17], [40, 1, 2, 3]])
@pytest.mark.parametrize("parts", [1, 3])
def test_rows_of_a_request_may_see_differently_far(horizon: list[int], parts: int) -> None:
    q, key, value, rows = case([(0, 1, 5), (1, 0, 3)], (2, 40, 2, 1, 16), torch.float32)
    rows = replace(rows, horizon=np.array([*horizon, 8, 8, 8]))
    key[8 + 40 :], value[8 + 40 :] = torch.nan, torch.nan
    value[max(horizon) : 40] = torch.nan
    tiles = Tiles(16, 16, parts, 4, 2, least_keys=16)
    found = triton_attend.attend(q, key, value, rows, None, tiles=tiles)
    alone = [exactly(q[n : n + 1], key, value, rows.take(np.array([n])), None) for n in range(7)]
    close(found, torch.cat(alone))
    close(reference.attend(q, key, value, rows), torch.cat(alone))


def test_no_number_is_hidden() -> None:
    q, key, value, rows = case([(0, 0, 3), (1, 0, 3)], (2, 40, 2, 2, 16), torch.float32)
    key[40 + 7, 0] = torch.nan
    for parts in (1, 3):
        found = triton_attend.attend(q, key, value, rows, None, tiles=Tiles(16, 16, parts, 4, 2))
        broken = found.isnan().unflatten(1, (2, 16)).all(-1)
        assert broken.tolist() == [[False, False]] * 3 + [[True, False]] * 3


@pytest.mark.parametrize(
    ("num_rows", "length", "far"), [(32, 255, False), (32, 256, True), (257, 4096, False)]
)
def test_keys_are_split_where_rows_are_few_and_see_far(
    num_rows: int, length: int, far: bool
) -> None:
    rows = Rows.spans([(0, 0, num_rows)], torch.device(DEVICE), lengths=[length])
    assert attention_work.splits(rows) == far
    tiles = attention_work.tiles_for(num_rows, 32, 1, 128, 2, far=far)
    work = attention_work.pieces(rows, tiles, 1, 32, num_rows=num_rows)
    assert (work[:, 7].max() > 1) == far


def test_heads_that_share_keys_take_the_rows_of_a_block_at_once() -> None:
    """Dream's block has 33 rows: in tiles of 32, every key would be read for one row again."""
    rows = Rows.spans([(0, 0, 33)], torch.device(DEVICE), lengths=[1280])
    for shared, tiles in ((True, 1), (False, 2)):
        shape = attention_work.tiles_for(33, 28, 1, 128, 2, shared=shared, far=True)
        work = attention_work.pieces(rows, shape, 1, 28, num_rows=33)
        assert len({tuple(piece[:2]) for piece in work.tolist()}) == tiles


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
    with backend.served_by("triton"):
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
