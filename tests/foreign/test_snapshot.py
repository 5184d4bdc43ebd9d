"""What a call leaves: copied at once, read later."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from skipstone.foreign.attach.snapshot import Carriers, Snapshot
from skipstone.record import MemoryTrace, Tap, TensorKey
from skipstone.record.trace import Taken
from tests import synthetic_trace as made_up

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
