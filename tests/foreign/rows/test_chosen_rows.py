"""A model that is given its whole canvas, and itself chooses which rows its layers compute.

Shape letters: B batch, L positions, M rows that are chosen, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from skipstone import attach, diagnose
from skipstone.record import MemoryTrace, Tap, TensorKey

MASK, WIDTH, VOCAB = 15, 8, 16
Choice = Callable[[Tensor, Tensor], Tensor]
"""From states [B, L, D] and a mask bool [B, L] to states [B, M, D]."""


def by_mask(x: Tensor, chosen: Tensor) -> Tensor:
    return x[chosen].view(len(x), -1, x.shape[-1])


def by_numbers(x: Tensor, chosen: Tensor) -> Tensor:
    return x[:, chosen[0].nonzero()[:, 0]]


def by_pairs(x: Tensor, chosen: Tensor) -> Tensor:
    samples, rows = chosen.nonzero(as_tuple=True)
    return x[samples, rows].view(len(x), -1, x.shape[-1])


def by_gather(x: Tensor, chosen: Tensor) -> Tensor:
    rows = chosen.nonzero()[:, 1].view(len(x), -1, 1).expand(-1, -1, x.shape[-1])
    return x.gather(1, rows)


def by_select(x: Tensor, chosen: Tensor) -> Tensor:
    return x.index_select(1, chosen[0].nonzero()[:, 0])


def backwards(x: Tensor, chosen: Tensor) -> Tensor:
    return x[:, chosen[0].nonzero()[:, 0].flip(0)]


def scaled(x: Tensor, chosen: Tensor) -> Tensor:
    return x[:, chosen[0].nonzero()[:, 0]] * 1.0


def turned_round(x: Tensor, chosen: Tensor) -> Tensor:
    return x[chosen].view(len(x), -1, x.shape[-1]).flip(1)


def unseen(x: Tensor, chosen: Tensor) -> Tensor:
    return x.masked_select(chosen.unsqueeze(-1)).view(len(x), -1, x.shape[-1])


class Net(nn.Module):
    """Scatters its logits back to all positions, or gives them of the rows that it computed."""

    def __init__(self, choice: Choice, *, whole: bool = True, more: int = 0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.table, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.choice, self.whole, self.more = choice, whole, more

    def forward(self, ids: Tensor, chosen: Tensor | None = None) -> Tensor:
        x = self.table(ids)
        x = x if chosen is None else self.choice(x, chosen)
        if self.more:
            x = torch.cat([x, x[:, : self.more]], 1)
        for layer in self.layers:
            x = layer(x)
        logits = self.head(x)[:, : x.shape[1] - self.more]
        if chosen is None or not self.whole:
            return logits
        every = torch.zeros(*ids.shape, VOCAB)
        return every.masked_scatter(chosen.unsqueeze(-1), logits)


@torch.no_grad()
def decode(net: Net, ids: Tensor) -> None:
    """Three steps: the whole canvas, then the last rows only, of which each commits one."""
    ids = ids.clone()
    start = 3
    for step in range(3):
        chosen = torch.zeros_like(ids, dtype=torch.bool)
        chosen[:, start:] = True
        logits = net(ids, chosen if step else None)
        at = start + step
        of = logits[:, at if logits.shape[1] == ids.shape[1] else step]
        ids[:, at] = of[:, :MASK].argmax(-1)
    net(ids)


PROMPTS = {
    1: torch.tensor([[1, 2, 3, MASK, MASK, MASK]]),
    2: torch.tensor([[1, 2, 3, MASK, MASK, MASK], [4, 5, 6, MASK, MASK, MASK]]),
}
CHOICES = (by_mask, by_numbers, by_pairs, by_gather, by_select, backwards, scaled)


def recorded(net: Net, batch: int) -> MemoryTrace:
    with attach(net, mask_id=MASK, level="full") as recorder:
        decode(net, PROMPTS[batch])
    return recorder.trace


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("whole", [True, False])
def test_rows_that_a_model_chooses_are_those_of_the_step(
    choice: Choice, batch: int, whole: bool
) -> None:
    net = Net(choice, whole=whole)
    trace = recorded(net, batch)
    for sample, record in enumerate(trace.records):
        assert [sorted(s.rows.tolist()) for s in record.steps[:3]] == [
            [0, 1, 2, 3, 4, 5],
            [3, 4, 5],
            [3, 4, 5],
        ]
        assert not {e.kind for e in record.events} & {"rows_not_located", "skipped_rows_unknown"}
        state = trace.tensor(sample, TensorKey(1, Tap.STATE, 0))
        assert state is not None
        masked = state.positions > 3
        right = net.table.weight[MASK].detach().numpy()
        assert masked.sum() == 2
        assert (state.values[masked] == right).all()
        assert not (state.values[~masked] == right).all()
    assert diagnose(trace, recorded(net, batch)).verdict == "same"


@pytest.mark.parametrize("choice", [unseen, turned_round])
def test_rows_that_nobody_saw_being_chosen_are_said_once_and_nothing_is_made_up(
    choice: Choice,
) -> None:
    with pytest.warns(match="which rows these are is not known") as said:
        trace = recorded(Net(choice), 1)
    assert len([w for w in said if "which rows these are" in str(w.message)]) == 1
    record = trace.records[0]
    assert [e.kind for e in record.events].count("rows_not_located") == 1
    assert [s.rows.size for s in record.steps[:3]] == [6, 0, 0]
    assert trace.tensor(0, TensorKey(1, Tap.STATE, 1)) is None
    with pytest.warns(match="which rows these are is not known"):
        assert diagnose(trace, recorded(Net(choice), 1)).verdict == "same"


def test_rows_that_a_model_adds_are_said_and_not_taken_for_those_of_the_canvas() -> None:
    with pytest.warns(match="its layers compute 8"):
        trace = recorded(Net(by_mask, more=2), 1)
    assert [s.rows.size for s in trace.records[0].steps[:1]] == [0]
