"""What a call leaves: copied at once, read later."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from skipstone.foreign.attach.snapshot import Carriers, Snapshot, Values
from skipstone.foreign.attach.stores import Changed, Stores
from skipstone.record import MemoryTrace, Tap, TensorKey
from skipstone.record.trace import Taken
from skipstone.tracing.record.recorder import to_numpy
from tests.helpers import synthetic_trace as made_up

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sent", [True, False])
def test_what_is_written_after_a_copy_changes_nothing(device: str, sent: bool) -> None:
    dtypes = [torch.bool, torch.bfloat16, torch.int64, torch.float64, torch.float32]
    tensors = [torch.arange(7, device=device).to(dtype).view(1, 7) for dtype in dtypes]
    large = torch.rand(1 << 10, 1 << 10, device=device)
    before = large.cpu().numpy().copy()
    snapshot, carriers = Snapshot(), Carriers()
    copies = [snapshot.take(tensor) for tensor in tensors]
    held = snapshot.take(large)
    if sent:
        snapshot.send(carriers)
    for tensor in (*tensors, large):
        tensor.zero_()
    assert np.array_equal(held.array(), before)
    for copy, dtype in zip(copies, dtypes, strict=True):
        expected = torch.arange(7).to(dtype).double().numpy()
        assert np.array_equal(copy.array()[0].astype(np.float64), expected)
    carriers.close()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_cache_is_what_it_was_whichever_rows_were_carried(
    device: str, dtype: torch.dtype
) -> None:
    cache = torch.rand(2, 1, 12, 8, device=device).to(dtype)
    cache[0, 0, 0, 0] = torch.nan
    stores, carriers = Stores(), Carriers()
    kept = list[tuple[Values, np.ndarray]]()
    # The rows that the call computed; one that changed others as well; one that changed none.
    for begin, stop, wrote in [(0, 12, 0), (4, 6, 5), (4, 6, 9), (6, 8, 6), (6, 8, None)]:
        if wrote is not None:
            cache[:, :, wrote] = wrote + 0.5
        snapshot = Snapshot()
        taken = stores.take("keys", cache.clone(), np.arange(begin, stop)[None], snapshot)
        kept.append((taken, to_numpy(cache)))
        snapshot.send(carriers)
        stores.send(carriers)
    assert [isinstance(taken, Changed) for taken, _ in kept] == [False, True, True, True, True]
    for taken, expected in kept:
        found = taken.array()
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes()
    carriers.close()


def test_a_cache_of_another_size_is_carried_whole() -> None:
    stores, snapshot = Stores(), Snapshot()
    stores.take("keys", torch.rand(1, 1, 8, 2), np.arange(8)[None], snapshot)
    taken = stores.take("keys", torch.rand(1, 1, 9, 2), np.array([[8]]), snapshot)
    assert not isinstance(taken, Changed)


def test_steps_whose_tensors_are_on_the_way_are_there_when_asked_for() -> None:
    trace, drawn = MemoryTrace(), list[int]()
    trace.begin([made_up.header()], "full")
    key = TensorKey(0, Tap.STATE, 0)

    def coming() -> Iterator[Taken]:
        drawn.append(1)
        yield 0, made_up.step(0), {key: (np.zeros(1, np.int32), np.ones((1, 2), np.float32))}

    trace.later(coming())
    assert not drawn
    assert trace.keys(0) == [key]
    assert len(trace.records[0].steps) == 1
    assert drawn == [1]
