"""Caches that grow, with the heads before their positions or after them.

Shape letters: B batch, N rows, L positions, H heads, W width of a head, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from skipstone import attach, diagnose, sanitize
from skipstone.record import MemoryTrace, Tap, TensorKey

MASK, VOCAB, WIDTH, LAYERS = 63, 64, 4, 2
PROMPT = torch.tensor([[3, 14, 15, 9, 26, 5, 35]])
SIZE = 6


@dataclass
class Bank:
    """Keys and values of each layer, of the positions that are done."""

    pages: list[tuple[Tensor, ...] | None] = field(default_factory=lambda: [None] * LAYERS)


class Layer(nn.Module):
    """Attention whose keys lie as [B, L, H, W], or as [B, H, L, W]."""

    def __init__(self, number: int, heads: int, *, heads_first: bool) -> None:
        super().__init__()
        width = heads * WIDTH
        self.number, self.heads, self.along = number, heads, 2 if heads_first else 1
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, bank: Bank, keep: bool) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, WIDTH)).unbind(2)
        if self.along == 2:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        page = bank.pages[self.number]
        if page is not None:
            k, v = torch.cat([page[0], k], self.along), torch.cat([page[1], v], self.along)
        if keep:
            bank.pages[self.number] = k, v
        letters = "bhnw,bhmw->bhnm" if self.along == 2 else "bnhw,bmhw->bhnm"
        weights = (torch.einsum(letters, q, k) / WIDTH**0.5).softmax(-1)
        back = "bhnm,bhmw->bnhw" if self.along == 2 else "bhnm,bmhw->bnhw"
        return x + self.out(torch.einsum(back, weights, v).flatten(2))


class Net(nn.Module):
    """Positions are told by one whole number."""

    def __init__(self, heads: int, *, heads_first: bool) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.along = 2 if heads_first else 1
        self.table, self.places = (
            nn.Embedding(VOCAB, heads * WIDTH),
            nn.Embedding(64, heads * WIDTH),
        )
        self.tower = nn.ModuleList(Layer(n, heads, heads_first=heads_first) for n in range(LAYERS))
        self.head = nn.Linear(heads * WIDTH, VOCAB)

    def forward(self, toks: Tensor, begin_at: int, bank: Bank, keep: bool = False) -> Tensor:
        x = self.table(toks) + self.places(torch.arange(begin_at, begin_at + toks.shape[1]))
        for layer in self.tower:
            x = layer(x, bank, keep)
        return self.head(x)


@torch.no_grad()
def write(net: Net, *, short: int = 0, pieces: int = 3) -> Tensor:
    """Blocks of six; the canvas grows by one at a time, and so does the cache."""
    bank, text = Bank(), PROMPT.clone()
    net(text, 0, bank, keep=True)
    for _ in range(pieces):
        start = text.shape[1]
        text = torch.cat([text, torch.full((1, SIZE), MASK)], 1)
        if short:
            pages = [page for page in bank.pages if page is not None]
            bank.pages = [tuple(x.narrow(net.along, 0, start - short) for x in p) for p in pages]
        for _ in range(3):
            logits = net(text[:, start:], start, bank)[..., :MASK]
            sure, token = logits.softmax(-1).max(-1)
            sure = sure.where(text[:, start:] == MASK, torch.tensor(-1.0))
            best = sure.topk(2).indices
            text[:, start:] = text[:, start:].scatter(1, best, token.gather(1, best))
        net(text[:, start:], start, bank, keep=True)
    return text


LAYOUTS = [(heads, first) for heads in (4, 6, 7, 13, 16) for first in (True, False)]
"""Fewer heads than rows, as many as a block, the prompt or the canvas has, and more than that."""


def recorded(net: Net, short: int = 0) -> MemoryTrace:
    with attach(net, mask_id=MASK, level="full") as recorder:
        write(net, short=short)
    return recorder.trace


@pytest.mark.parametrize(("heads", "first"), LAYOUTS)
def test_right_code_is_not_alarmed_however_its_cache_is_laid_out(heads: int, first: bool) -> None:
    net = Net(heads, heads_first=first)
    with sanitize(net, mask_id=MASK) as report:
        write(net)
    assert report.text().startswith("findings: 0,"), report.text()
    trace = recorded(net)
    record = trace.records[0]
    assert not {e.kind for e in record.events} & {"positions_disagree", "rows_not_located"}
    starts = [int(step.rows.min()) for step in record.steps[:9]]
    assert starts == [0, 7, 7, 7, 7, 13, 13, 13, 13]
    assert diagnose(trace, recorded(net)).verdict == "same"


@pytest.mark.parametrize("first", [True, False])
def test_keys_are_recorded_by_their_positions_in_either_layout(first: bool) -> None:
    net = Net(4, heads_first=first)
    trace = recorded(net)
    state, key = (
        trace.tensor(0, TensorKey(forward, tap, layer))
        for forward, tap, layer in ((0, Tap.STATE, 0), (1, Tap.KEY, 1))
    )
    assert state is not None
    assert key is not None
    layer = net.tower[0]
    assert isinstance(layer, Layer)
    right = layer.qkv(torch.from_numpy(state.values)).detach().numpy()
    width = 4 * WIDTH
    assert key.values == pytest.approx(right[:, width : 2 * width], abs=1e-6)


@pytest.mark.parametrize(("heads", "first"), [(4, True), (4, False)])
def test_a_cache_that_is_a_row_short_is_still_named_in_either_layout(
    heads: int, first: bool
) -> None:
    net = Net(heads, heads_first=first)
    a, b = recorded(net), recorded(net, short=1)
    assert diagnose(a, b).verdict in {"visible-set", "position-encoding", "wrong-cache-row"}


def test_what_a_user_prints_says_what_it_holds(tmp_path: Path) -> None:
    net = Net(4, heads_first=False)
    with sanitize(net, mask_id=MASK) as report:
        write(net)
    assert str(report) == report.text()
    assert repr(report) == "<Report of 13 forwards, findings: none>"
    with attach(net, mask_id=MASK) as recorder:
        write(net)
    assert repr(recorder) == "<Attached to Net: 1 run>"
    with attach(net, mask_id=MASK, path=tmp_path / "run") as recorder:
        write(net)
    assert repr(recorder) == f"<Attached to Net: 1 run, kept in {str(tmp_path / 'run')!r}>"
