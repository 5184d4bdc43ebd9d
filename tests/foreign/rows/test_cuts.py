"""Blocks, steps and rows of loops that go other ways than ours: each is cut as it really goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skipstone import diagnose
from skipstone.foreign.attach.attach import attach
from skipstone.foreign.attach.blocks import block_length_from_run, lay_out, window_of
from skipstone.foreign.attach.seen import MaskScores, Seen
from skipstone.record import MemoryTrace, RunRecord
from skipstone.testing.tiny import EOS, MASK, tiny_model
from specimens import bare, hf_style

MODEL = tiny_model()
NET = bare.from_model(MODEL)
HF = hf_style.from_model(MODEL)
WORDS = [[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5], [8, 9, 7, 9, 3]]
NEW, BLOCK = 12, 4


def recorded(net: nn.Module, loop: Callable[[], Tensor], *, sanitize: bool = False) -> MemoryTrace:
    """The one run that a loop makes; every sample ends as the loop's own canvas."""
    plain = loop()
    with torch.no_grad(), attach(net, mask_id=MASK, eos_id=EOS, sanitize=sanitize) as recorder:
        canvas = loop()
    assert torch.equal(canvas, plain)
    assert len(recorder.traces) == 1
    for record, ids in zip(recorder.records, canvas, strict=True):
        assert record.outcome is not None
        assert list(record.outcome.tokens) == ids[record.prompt_length :].tolist()
        assert not [e for e in record.events if e.kind in ("masks_left", "positions_disagree")]
    return recorder.trace


def places(record: RunRecord) -> Iterator[tuple[int, int, int, int]]:
    """Block, step and bounds, step by step."""
    for step in record.steps:
        yield step.block, step.step, step.block_start, step.block_stop


def fill(logits: Tensor, canvas: Tensor, region: Tensor, count: int) -> None:
    """Commit the first ``count`` masks of a region, a bool [B, L], in each sample."""
    logits = logits.clone()
    logits[..., MASK] = -torch.inf
    tokens = logits.argmax(-1)
    for row, token, allowed in zip(canvas, tokens, region & (canvas == MASK), strict=True):
        chosen = allowed.nonzero()[:count, 0]
        row[chosen] = token[chosen]


def right_padded() -> Tensor:
    """Prompts of unequal length, masks behind each, and what fills the rest."""
    longest = max(map(len, WORDS))
    canvas = torch.full((len(WORDS), longest + NEW), EOS)
    for row, words in zip(canvas, WORDS, strict=True):
        row[: len(words)] = torch.tensor(words)
        row[len(words) : len(words) + NEW] = MASK
    return canvas


def unequal(block_size: int = BLOCK) -> Tensor:
    """Each sample has blocks of its own; the second commits twice as fast."""
    canvas = right_padded()
    column = torch.arange(canvas.shape[1])
    for number in range(NEW // block_size):
        starts = torch.tensor([len(words) + number * block_size for words in WORDS])[:, None]
        region = (column >= starts) & (column < starts + block_size)
        while (region & (canvas == MASK)).any():
            logits = NET(canvas)
            for b in range(len(WORDS)):
                fill(logits[b : b + 1], canvas[b : b + 1], region[b : b + 1], 1 + (b == 1))
    return canvas


def test_prompts_of_unequal_length_have_blocks_of_their_own() -> None:
    for record, words in zip(recorded(NET, unequal).records, WORDS, strict=True):
        assert record.header.prompt_ids == tuple(words)
        for number, (block, step, start, stop) in enumerate(places(record)):
            assert (block, step) == divmod(number, BLOCK)
            assert (start, stop) == (len(words) + block * BLOCK, len(words) + (block + 1) * BLOCK)


def guided(order: tuple[int, int] = (0, 1), block_length: int = BLOCK) -> Tensor:
    """Guidance: prompts, and the same with their tokens masked, in one batch."""
    canvas = torch.full((2, 5 + NEW), MASK)
    canvas[:, :5] = torch.tensor([WORDS[2], WORDS[0][:5]])
    given = canvas != MASK
    for start in range(5, 5 + NEW, block_length):
        region = torch.zeros_like(given)
        region[:, start : start + block_length] = True
        while (region & (canvas == MASK)).any():
            bare_ids = torch.where(given, MASK, canvas)
            both = NET(torch.cat([(canvas, bare_ids)[i] for i in order]))
            halves = both.chunk(2)
            with_prompt, without = halves[order.index(0)], halves[order.index(1)]
            fill(without + 1.5 * (with_prompt - without), canvas, region, 2)
    return canvas


@pytest.mark.parametrize("sanitize", [False, True])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_masked_half_of_guidance_is_no_sample(order: tuple[int, int], sanitize: bool) -> None:
    trace = recorded(NET, lambda: guided(order), sanitize=sanitize)
    assert len(trace.records) == 2
    for record in trace.records:
        assert record.prompt_length == 5
        assert [p[:2] for p in places(record)] == [(b, s) for b in range(3) for s in range(2)]
        assert [e.kind for e in record.events if e.kind == "guidance"] == ["guidance"]


def test_two_equal_prompts_are_two_samples() -> None:
    def loop(block_length: int = 4) -> Tensor:
        canvas = torch.full((2, 9), MASK)
        canvas[:, :5] = torch.tensor(WORDS[2])
        while (canvas == MASK).any():
            fill(NET(canvas), canvas, torch.ones_like(canvas, dtype=torch.bool), 1)
        return canvas

    assert len(recorded(NET, loop).records) == 2


def windows(size: int = BLOCK) -> Tensor:
    """Blocks lie on a grid over prompt and answer, and calls stop at the end of the block."""
    block_size = size
    prompt = torch.tensor(WORDS[2:])
    canvas = torch.full((1, 16), MASK)
    canvas[:, : prompt.shape[1]] = prompt
    for stop in range(2 * block_size, 17, block_size):
        region = torch.zeros_like(canvas, dtype=torch.bool)
        region[:, stop - block_size : stop] = True
        while (region & (canvas == MASK)).any():
            logits = NET(canvas[:, :stop])
            fill(logits, canvas[:, :stop], region[:, :stop], 1)
    return canvas


def test_blocks_on_a_grid_over_the_prompt_are_found_from_windows() -> None:
    [record] = recorded(NET, windows).records
    assert list(dict.fromkeys(p[2:] for p in places(record))) == [(5, 8), (8, 12), (12, 16)]
    assert [p[:2] for p in places(record)] == [
        *((0, s) for s in range(3)),
        *((b, s) for b in (1, 2) for s in range(4)),
    ]
    assert [step.rows.size for step in record.steps] == [8] * 3 + [12] * 4 + [16] * 4


class Picky(nn.Module):
    """Takes any rows by position, with stores of its own; a layer may drop the first of them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = bare.from_model(MODEL)
        self.layers = nn.ModuleList(Dropping(slab) for slab in self.net.pile)

    def forward(
        self, ids: Tensor, position_ids: Tensor, stores: list[dict[str, Tensor]], keep: int
    ) -> Tensor:
        """Logits [B, M, V] of the rows that went through all layers."""
        x = self.net.table(ids)
        for number, layer in enumerate(self.layers):
            x, position_ids = layer(x, position_ids, keep if number == 1 else x.shape[1])
        stores[0]["rows"] = position_ids
        return self.net.words(self.net.last(x))


class Dropping(nn.Module):
    """One layer, which goes on with its last rows."""

    def __init__(self, slab: nn.Module) -> None:
        super().__init__()
        assert isinstance(slab, bare.Slab)
        self.slab, self.heads = slab, slab.heads

    def forward(self, x: Tensor, position_ids: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        first = x.shape[1] - keep
        order = torch.arange(first, x.shape[1])[None, :, None].expand(x.shape[0], -1, 1)
        angle = position_ids[0].double()[:, None] * torch.ones(x.shape[-1] // self.heads)
        x = self.slab(x, angle.cos(), angle.sin())
        if first:
            x = x.take_along_dim(order, 1)
            position_ids = position_ids[:, first:]
        return x, position_ids


def by_position(net: Picky) -> Callable[[], Tensor]:
    """Rows are gathered; logits are of the next position, so they begin before their block."""

    def loop(block_length: int = BLOCK) -> Tensor:
        prompt = torch.tensor(WORDS[2:])
        start = prompt.shape[1]
        # One more than is computed: the last row writes behind the end.
        canvas = torch.full((1, start + 8 + 1), MASK)
        canvas[:, :start] = prompt
        for begin in range(start - 1, start + 7, block_length):
            for step in range(block_length):
                first = 0 if begin == start - 1 and step == 0 else begin
                place = torch.arange(first, begin + block_length)[None]
                if first == 0:
                    place = torch.arange(canvas.shape[1] - 1)[None]
                keep = place.shape[1] - (1 if step == 2 else 0)
                stores: list[dict[str, Tensor]] = [{}]
                ids = canvas.gather(1, place)
                logits = net(ids, position_ids=place, stores=stores, keep=keep)
                logits[..., MASK] = -torch.inf
                at = begin + 1 + (step + 1) % block_length
                row = int((stores[0]["rows"][0] == at - 1).nonzero()[0, 0])
                canvas.scatter_(1, torch.tensor([[at]]), logits[:, row].argmax(-1)[None])
        return canvas[:, :-1]

    return loop


def test_rows_by_position_that_leave_within_a_layer_are_told_apart() -> None:
    net = Picky()
    with torch.no_grad():
        [record] = recorded(net, by_position(net)).records
    assert [p[:2] for p in places(record)] == [(b, s) for b in range(2) for s in range(4)]
    assert [p[2:] for p in places(record)] == [(5, 9)] * 4 + [(9, 13)] * 4
    for number, step in enumerate(record.steps):
        begin = 4 if number < 4 else 8
        rows = range(13) if number == 0 else range(begin, begin + 4)
        assert step.rows.tolist() == list(rows)
        assert step.skipped == ((begin,) if number % 4 == 2 else ())
        assert step.skip_layer == (3 if number % 4 == 2 else 0)
        [at] = step.committed
        assert at == begin + 1 + (number + 1) % 4
        [token] = step.candidates.token[step.candidates.committed]
        assert token == step.ids_after[at - 5]


def test_position_ids_that_count_from_behind_the_padding_are_no_contradiction() -> None:
    def loop(block_length: int = BLOCK) -> Tensor:
        canvas = torch.full((2, 7 + 8), MASK)
        canvas[0, :7] = torch.tensor(WORDS[0])
        canvas[1, :7] = torch.tensor([0, 0, 0, *WORDS[1]])
        real = torch.ones_like(canvas)
        real[1, :3] = 0
        numbers = (real.cumsum(-1) - 1).masked_fill(real == 0, 1)
        for start in range(7, 15, block_length):
            region = torch.zeros_like(canvas, dtype=torch.bool)
            region[:, start : start + block_length] = True
            out = HF(canvas, attention_mask=real, position_ids=numbers, use_cache=True)
            fill(out.logits, canvas, region, 1)
            past = tuple((k[:, :, :start], v[:, :, :start]) for k, v in out.past_key_values or ())
            while (region & (canvas == MASK)).any():
                part = HF(
                    canvas[:, start:],
                    attention_mask=real,
                    position_ids=numbers[:, start:],
                    past_key_values=past,
                )
                fill(part.logits, canvas[:, start:], region[:, start:], 1)
        return canvas

    for sanitize in (False, True):
        for record in recorded(HF, loop, sanitize=sanitize).records:
            assert record.prompt_length == 7
            assert not [e for e in record.events if e.kind == "misaligned_rows"]
            assert {step.rows.size for step in record.steps} == {15, 8, 4}


def test_a_first_block_may_be_shorter() -> None:
    grid = lay_out(start=5, origin=5, stop=16, length=4, window=8)
    assert [grid.of(p) for p in (0, 5, 7, 8, 11, 12, 15)] == [0, 0, 0, 1, 1, 2, 2]
    assert [grid.bounds(b) for b in range(3)] == [(5, 8), (8, 12), (12, 16)]
    even = lay_out(start=5, origin=5, stop=14, length=4, window=None)
    assert [even.bounds(b) for b in range(3)] == [(5, 9), (9, 13), (13, 14)]


def test_a_window_over_a_part_of_a_long_prompt_shows_no_grid() -> None:
    blocks = lay_out(start=30, origin=30, stop=64, length=8, window=4)
    assert blocks.bounds(0) == (30, 38)


def test_a_window_begins_with_the_canvas_and_ends_before_it() -> None:
    assert window_of(np.arange(8), 16) == 8
    assert window_of(np.arange(16), 16) is None
    assert window_of(np.arange(4, 8), 16) is None


def test_calls_that_begin_before_their_block_tell_its_length() -> None:
    def seen(start: int, stop: int) -> Seen:
        ids, none, real = np.full(24, MASK), np.zeros(0, np.int32), np.zeros(0)
        rows = np.arange(start, stop, dtype=np.int32)
        whole = rows.size == ids.size
        scores = MaskScores(none, none, real, none, real)
        return Seen(0, rows, whole, rows, 0, True, "", ids, ids, None, scores, 0.0)

    assert block_length_from_run([seen(0, 24), seen(6, 14), seen(14, 22)], 7, MASK) == 8
    assert block_length_from_run([seen(0, 24), seen(15, 24)], 7, MASK) == 8


def test_a_block_length_that_the_loop_does_not_heed_is_none() -> None:
    def loop() -> Tensor:
        # As one has it that is used in another branch only.
        block_length = 4
        canvas = torch.full((1, 5 + 8), MASK)
        canvas[:, :5] = torch.tensor(WORDS[2])
        for place in (11, 6, 8, 12, 5, 7, 10, 9):
            region = torch.zeros_like(canvas, dtype=torch.bool)
            region[:, place] = block_length > 0
            fill(NET(canvas), canvas, region, 1)
        return canvas

    [record] = recorded(NET, loop).records
    assert {p[2:] for p in places(record)} == {(5, 13)}
    assert {p[0] for p in places(record)} == {0}


def test_calls_behind_the_cache_of_a_hidden_prompt_are_no_steps() -> None:
    def loop(block_size: int = BLOCK) -> Tensor:
        prompt = torch.tensor([[9, *WORDS[0]]])
        canvas = prompt
        for _ in range(2):
            start = canvas.shape[1]
            hidden = canvas.clone()
            hidden[:, 1 : prompt.shape[1]] = MASK
            past = HF(canvas, use_cache=True).past_key_values
            none = HF(hidden, use_cache=True).past_key_values
            canvas = torch.cat([canvas, canvas.new_full((1, block_size), MASK)], dim=1)
            place = torch.arange(start, start + block_size)[None]
            region = torch.ones_like(place, dtype=torch.bool)
            for _ in range(block_size):
                ids = canvas[:, start:]
                guided, free = (
                    HF(ids, position_ids=place, past_key_values=copied(cache)).logits
                    for cache in (past, none)
                )
                fill(free + 1.5 * (guided - free), ids, region, 1)
        return canvas

    [record] = recorded(HF, loop).records
    assert record.prompt_length == 8
    # What comes before a block is computed in a forward of its own, which decides nothing.
    numbers = (0, 0, 1, 2, 3)
    assert [p[:2] for p in places(record)] == [(b, s) for b in range(2) for s in numbers]
    assert [len(step.committed) for step in record.steps] == [0, 1, 1, 1, 1] * 2
    assert [step.rows.size for step in record.steps] == [8, 4, 4, 4, 4, 12, 4, 4, 4, 4]


def copied(cache: tuple[hf_style.KeyValue, ...] | None) -> tuple[hf_style.KeyValue, ...]:
    """As loops hand on a cache that a call would change."""
    assert cache is not None
    return tuple((k.clone(), v.clone()) for k, v in cache)


def test_tokens_of_the_row_before_are_no_misalignment() -> None:
    def loop(block_length: int = BLOCK) -> Tensor:
        canvas = torch.full((1, 5 + 8), MASK)
        canvas[:, :5] = torch.tensor(WORDS[2])
        for start in range(5, 13, block_length):
            region = torch.zeros_like(canvas, dtype=torch.bool)
            region[:, start : start + block_length] = True
            while (region & (canvas == MASK)).any():
                logits = NET(canvas)
                logits[..., MASK] = -torch.inf
                shifted = torch.empty_like(logits[:, 1:])
                shifted[:, :] = logits[:, :-1]
                token = torch.where(canvas[:, 1:] == MASK, shifted.argmax(-1), canvas[:, 1:])
                chosen = (region & (canvas == MASK))[0].nonzero()[0, 0]
                canvas[:, chosen] = token[:, chosen - 1]
        return canvas

    [record] = recorded(NET, loop, sanitize=True).records
    assert not [e for e in record.events if e.kind == "misaligned_rows"]
    assert [p[:2] for p in places(record)] == [(b, s) for b in range(2) for s in range(4)]


def test_a_loop_that_edits_what_it_committed_departs_from_nothing() -> None:
    def loop(block_length: int = 8) -> Tensor:
        canvas = torch.full((1, 5 + block_length), MASK)
        canvas[:, :5] = torch.tensor(WORDS[2])
        region = torch.ones_like(canvas, dtype=torch.bool)
        while (canvas == MASK).any():
            fill(NET(canvas), canvas, region, 2)
            canvas[:, 5] = (canvas[:, 5] + 1) % 40
        return canvas

    first, second = recorded(NET, loop), recorded(NET, loop)
    said = diagnose(first, second)
    assert said.verdict == "same"
    assert str(said.summary) == "A and B decide the same in every step"
