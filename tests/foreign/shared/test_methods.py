"""Functions that tell of themselves: reads by the host, rows that are picked; only the user's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from skipstone.foreign.shared.functions import Operation
from skipstone.foreign.shared.guard import Guard
from skipstone.foreign.shared.methods import PICKS, READS, listening


class _Told:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, operation: Operation) -> None:
        self.count += 1


def test_each_way_to_read_is_told_once() -> None:
    x, heard = torch.tensor(1), _Told()
    before = Tensor.item
    with listening(READS, heard):
        read = [bool(x), float(x), int(x), x.item(), x.cpu(), x.numpy(), x.tolist(), [5, 6][x]]
    assert heard.count == len(read)
    assert Tensor.item is before
    assert "item" not in vars(Tensor)


def test_what_we_read_is_not_told() -> None:
    x, heard = torch.tensor(1), _Told()
    with listening(READS, heard), Guard().within("reading", str):
        assert x.item() == 1
    assert heard.count == 0


def test_rows_that_are_picked_are_told() -> None:
    x, heard = torch.ones(1, 4, 2), _Told()
    index = torch.zeros(1, 1, 2, dtype=torch.int64)
    before = torch.gather
    with listening(PICKS, heard, ndim=(3,)):
        x[:, :2], x.gather(1, index), torch.gather(x, 1, index), x.index_select(1, index[0, 0])
    assert heard.count == 4
    assert torch.gather is before


def test_nothing_is_compiled_again_for_it() -> None:
    @torch.compile(backend="eager")
    def read_and_scale(x: Tensor) -> Tensor:
        return x * x.sum().item()

    x, heard = torch.ones(3), _Told()
    expected = read_and_scale(x)
    before = counters["stats"]["unique_graphs"]
    with listening(READS, heard):
        assert torch.equal(read_and_scale(x), expected)
    assert counters["stats"]["unique_graphs"] == before
    assert heard.count == 1
