"""The kernels of the token skip against their twins; run as ``twins.py`` is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone import CosineSkip, DualCache, Engine, Fixed, Settings
from skipstone.ops import backend
from skipstone.ops.decide import dispatch, reference
from skipstone.ops.decide.reference import Bars, References
from skipstone.rows import Rows, to_device
from skipstone.testing.tiny import tiny_model
from tests.ops.twins import DEVICE, DTYPES, assert_equal, drawn

LENGTH, SLOTS = 9, 5
SIZES = [(1, 1, 32), (2, 3, 100), (3, 17, 257), (2, 2, 4096)]
BARS = Bars(outlier=0.7, threshold=0.9, committed=True, neighbours=True)


def some_rows(batch: int) -> Rows:
    """Rows of the first and the last request; some have no slot."""
    spans = [(b, int(b > 0), int(b > 0) + 5) for b in sorted({0, batch - 1})]
    return Rows.spans(spans, torch.device(DEVICE))


def some_references(layers: int, batch: int, width: int, dtype: torch.dtype) -> References:
    """Slots for positions 1 to 4, backwards; what nobody may read is poison."""
    slot = np.full((batch, LENGTH), -1)
    slot[:, 1:5] = [3, 2, 1, 0]
    states = drawn(layers, batch, SLOTS, width, dtype=dtype, seed=1)
    states[:, :, [2, 4]] = torch.nan
    # Slot 2 holds another position, and the spare says whose it held last.
    stamp = np.array([4, 3, 7, 1, 0])
    stamp_2BW = np.stack([np.tile(stamp, (batch, 1)), np.tile(stamp + 20, (batch, 1))])
    device = torch.device(DEVICE)
    return References(states, to_device(slot, device), to_device(stamp_2BW, device))


def forwards(first: int, batch: int) -> Tensor:
    """Forwards of the requests, each further than the one before: int64 [B, 1]."""
    return torch.arange(first, first + batch, device=DEVICE)[:, None]


def taken(references: References) -> Tensor:
    """The states of every slot but the spare one, poison made comparable."""
    return references.states_SBWD[:, :, :-1].nan_to_num(9.0)


def near(references: References, rows: Rows, dtype: torch.dtype) -> list[Tensor]:
    """States close to the references of rows, but for one row in the last layer."""
    layers, _, _, width = references.states_SBWD.shape
    slot_N = references.slot_BL[rows.request_N, rows.position_N]
    before = references.states_SBWD[:, rows.request_N, slot_N].nan_to_num(1.0).float()
    now = before + 0.2 * drawn(layers, rows.num_rows, width, dtype=torch.float32, seed=2)
    now[-1, 1] = -now[-1, 1]
    return [x.to(dtype) for x in now]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layers", "batch", "width"), SIZES)
def test_similarity(layers: int, batch: int, width: int, dtype: torch.dtype) -> None:
    rows, references = some_rows(batch), some_references(layers, batch, width, dtype)
    states = near(references, rows, dtype)
    with backend.served_by("triton"):
        found = dispatch.similarity(states, references, rows, torch.float32)
    twin = reference.similarity(states, references, rows, torch.float32)
    assert found.dtype == twin.dtype == torch.float64
    # The twin is a little further from the truth than the kernel.
    torch.testing.assert_close(found, twin, rtol=0, atol=2e-6)
    truth = reference.similarity(states, references, rows, torch.float64)
    torch.testing.assert_close(found, truth, rtol=0, atol=6e-7)
    assert (found[:, 0] == 0).all()
    assert (found != 0).any()
    assert found.max() <= 1


def test_similarity_of_zeros_and_nans() -> None:
    rows = Rows.spans([(0, 1, 5)], torch.device(DEVICE))
    references = some_references(1, 1, 64, torch.float32)
    references.stamp_2BW[0, :, :4] = to_device(np.array([4, 3, 2, 1]), rows.device)
    x = drawn(4, 64, dtype=torch.float32)
    x[0], x[2, 5] = 0.0, torch.inf
    with backend.served_by("triton"), np.errstate(invalid="ignore"):
        found = dispatch.similarity([x], references, rows, torch.float32)
    twin = reference.similarity([x], references, rows, torch.float32)
    assert found.isnan().tolist() == [[False, True, True, False]] == twin.isnan().tolist()
    assert found[0, 0] == 0
    judged = judge_twice(found, references, rows, torch.zeros(1, LENGTH, dtype=torch.bool))
    assert judged.smallest_N.isnan().tolist() == [False, True, True, False]
    assert judged.keep_N.all()


def judge_twice(
    similarity_SN: Tensor,
    references: References,
    rows: Rows,
    committed_BL: Tensor,
    bars: Bars = BARS,
) -> reference.Judged:
    """What the kernel says, after it was compared with its twin."""
    committed_BL = committed_BL.to(DEVICE)
    with backend.served_by("triton"):
        found = dispatch.judge(similarity_SN, references, rows, committed_BL, bars)
    twin = reference.judge(similarity_SN, references, rows, committed_BL, bars)
    for name, mine, yours in zip(found._fields, found, twin, strict=True):
        assert mine.dtype == yours.dtype, name
        torch.testing.assert_close(mine, yours, rtol=1e-14, atol=0, equal_nan=True, msg=name)
    return found


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("neighbours", [False, True])
def test_judge(fresh: bool, committed: bool, neighbours: bool) -> None:
    rows, references = some_rows(3), some_references(17, 3, 32, torch.float32)
    if fresh:
        rows = replace(rows, fresh_N=rows.request_N == 2)
    similarity = 0.9 + 0.1 * drawn(17, rows.num_rows, dtype=torch.float64).clamp(-2.5, 1)
    committed_BL = torch.zeros(3, LENGTH, dtype=torch.bool)
    # The ends of a request are no neighbours of the next one.
    committed_BL[0, [0, LENGTH - 1]] = committed_BL[1, LENGTH - 1] = True
    bars = BARS._replace(committed=committed, neighbours=neighbours, threshold=0.85, outlier=0.6)
    judged = judge_twice(similarity, references, rows, committed_BL, bars)
    forced = np.zeros(rows.num_rows, dtype=bool)
    forced[0], forced[1], forced[5:] = committed, neighbours, fresh
    assert judged.forced_N.tolist() == forced.tolist()
    assert judged.stamp_2N[:, :5].tolist() == [[-1, 1, -1, 3, 4], [-1, 21, -1, 23, 24]]
    # Neither without a slot nor with the reference of another position.
    assert not judged.stable_N[[0, 2]].any()
    assert judged.stable_N.any()


def test_bars_are_not_rounded_to_float32() -> None:
    rows = Rows.spans([(0, 3, 5)], torch.device(DEVICE))
    references = some_references(1, 1, 32, torch.float32)
    bars = Bars(0.7, 0.7, committed=False, neighbours=False)
    # float32 knows neither of them: 0.7 would be 0.69999998.
    similarity = torch.tensor([[0.7, 0.7 + 1e-12]], dtype=torch.float64, device=DEVICE)
    judged = judge_twice(
        similarity, references, rows, torch.zeros(1, LENGTH, dtype=torch.bool), bars
    )
    assert judged.stable_N.tolist() == [False, True]
    similarity -= 1e-10
    bars = bars._replace(threshold=-1.0)
    judged = judge_twice(
        similarity, references, rows, torch.zeros(1, LENGTH, dtype=torch.bool), bars
    )
    assert judged.stable_N.tolist() == [False, False]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize(("layers", "batch", "width"), SIZES)
def test_replace(layers: int, batch: int, width: int, every: bool, dtype: torch.dtype) -> None:
    rows = some_rows(batch)
    found, twin = (some_references(layers, batch, width, dtype) for _ in "ab")
    states = [drawn(rows.num_rows, width, dtype=dtype, seed=s) for s in range(layers)]
    keep_N = None if every else rows.position_N % 2 == 0
    with backend.served_by("triton"):
        dispatch.replace(states, found, rows, keep_N, forwards(1, batch))
    reference.replace(states, twin, rows, keep_N, forwards(1, batch))
    # The twin alone writes to the spare.
    assert_equal(taken(found), taken(twin))
    assert_equal(found.stamp_2BW[:, :, :-1], twin.stamp_2BW[:, :, :-1])
    before = some_references(layers, batch, width, dtype)
    assert found.states_SBWD[:, :, -1].isnan().all()
    assert_equal(found.stamp_2BW[:, :, -1], before.stamp_2BW[:, :, -1])
    assert not torch.equal(found.stamp_2BW, before.stamp_2BW)


def test_states_need_not_be_aligned() -> None:
    rows, references = some_rows(1), some_references(1, 1, 33, torch.float32)
    x = drawn(rows.num_rows + 1, 33, dtype=torch.float32)[1:]
    with backend.served_by("triton"):
        found = dispatch.similarity([x], references, rows, torch.float32)
        dispatch.replace([x], references, rows, None, forwards(5, 1))
    torch.testing.assert_close(
        found,
        reference.similarity([x], some_references(1, 1, 33, torch.float32), rows, torch.float32),
        rtol=0,
        atol=4e-7,
    )
    assert_equal(references.states_SBWD[0, 0, 3], x[1])


@pytest.mark.skipif(
    DEVICE != "cpu", reason="tests/engine/test_cuda.py runs the kernels in whole runs"
)
def test_a_run_that_skips_gives_the_tokens_of_the_reference() -> None:
    model = tiny_model(1, dtype=torch.float32)
    skip = CosineSkip(skip_layer_k=2, skip_threshold=0.5, skip_outlier=0.0)
    settings = Settings(cache=DualCache(), skip=skip, gen_length=8, block_length=8, unmask=Fixed())
    plain = Engine(model, settings).generate([5, 6, 7])
    with backend.served_by("triton"):
        again = Engine(model, settings).generate([5, 6, 7])
    assert (again.tokens, again.stats.skip_share) == (plain.tokens, plain.stats.skip_share)
    assert plain.stats.skip_share > 0


@pytest.mark.skipif(DEVICE == "cpu", reason="there is no GPU here")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_graph_can_capture_them_and_nobody_waits() -> None:
    rows = replace(some_rows(2), fresh_N=torch.zeros(10, dtype=torch.bool, device=DEVICE))
    first, found, twin = (some_references(3, 2, 257, torch.bfloat16) for _ in "abc")
    states = near(found, rows, torch.bfloat16)
    committed_BL = torch.zeros(2, LENGTH, dtype=torch.bool, device=DEVICE)

    def step(references: References) -> reference.Judged:
        similarity_SN = dispatch.similarity(states, references, rows, torch.float32)
        judged = dispatch.judge(similarity_SN, references, rows, committed_BL, BARS)
        dispatch.replace(states, references, rows, judged.keep_N, forwards(50, 2))
        return judged

    torch.cuda.set_sync_debug_mode("error")
    try:
        step(first)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        judged = step(found)
    graph.replay()
    with backend.served_by("reference"):
        plain = step(twin)
    assert_equal(judged.keep_N, plain.keep_N)
    for references in (first, found):
        assert_equal(references.stamp_2BW[:, :, :-1], twin.stamp_2BW[:, :, :-1])
        assert_equal(taken(references), taken(twin))
