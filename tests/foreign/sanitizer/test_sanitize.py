"""The position sanitizer finds rows that are mixed up, and nothing else."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipstone.errors import ConfigError
from skipstone.foreign.sanitizer.sanitize import Report, sanitize
from skipstone.record import Event
from skipstone.testing.tiny import MASK
from specimens import bare, decode, hf_style, llada_style
from tests.helpers.watching import uneven_model

PROMPT = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])
START, STOP, LENGTH = 7, 15, 23
"""Of the first block, and of the canvas, where a decoder is written out below."""
MODEL = uneven_model(5)
LLADA = llada_style.from_model(MODEL)
ALIGNED = llada_style.from_model(MODEL, aligned=True)
COARSE = llada_style.from_model(MODEL, aligned=True, similarity_dtype=torch.bfloat16)
HF = hf_style.from_model(MODEL)
BARE = bare.from_model(MODEL)


def watched(net: nn.Module, decode_with: Callable[[], Tensor]) -> tuple[Report, Tensor]:
    with sanitize(net, mask_id=MASK) as report:
        canvas = decode_with()
    return report, canvas


def kinds(report: Report) -> set[str]:
    return {event.kind for event in report.events}


def only(report: Report) -> Event:
    assert len(report.events) == 1, report.text()
    return report.events[0]


CORRECT: dict[str, tuple[nn.Module, Callable[[float | None], Tensor]]] = {
    "plain-llada": (LLADA, lambda t: decode.plain(LLADA, PROMPT, MASK, threshold=t)),
    "plain-hf": (HF, lambda t: decode.plain(HF, PROMPT, MASK, threshold=t)),
    "plain-bare": (BARE, lambda t: decode.plain(BARE, PROMPT, MASK, threshold=t)),
    "prefix-hf": (HF, lambda t: decode.prefix_cache(HF, PROMPT, threshold=t)),
    "dual-llada": (LLADA, lambda t: decode.dual_cache(LLADA, PROMPT, threshold=t)),
    "skip-llada": (
        ALIGNED,
        lambda t: decode.dual_cache(
            ALIGNED, PROMPT, threshold=t, skip_layer_k=3, skip_threshold=0.9
        ),
    ),
}


@pytest.mark.parametrize("threshold", [None, 0.5])
@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_decoder_gives_no_finding_and_the_same_canvas(
    name: str, threshold: float | None
) -> None:
    net, decode_with = CORRECT[name]
    report, canvas = watched(net, lambda: decode_with(threshold))
    assert report.events == (), report.text()
    assert report.forwards > 1
    assert report.lost == 0
    assert not report.failed
    assert torch.equal(canvas, decode_with(threshold))


@pytest.mark.parametrize("net", [LLADA, HF, BARE], ids=["llada", "hf", "bare"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_the_same_bit_for_bit(net: nn.Module, dtype: torch.dtype) -> None:
    net = copy.deepcopy(net).to(dtype)
    with torch.no_grad():
        alone = net(PROMPT)
        with sanitize(net, mask_id=MASK):
            beside = net(PROMPT)
    a, b = (out if isinstance(out, Tensor) else out.logits for out in (alone, beside))
    assert torch.equal(a, b)


# Loops that are correct, in other words than those above.


def in_place_loop(shift: int = 0) -> Tensor:
    """Commits through a view and a bool mask, as prefix-cache loops do."""
    canvas = decode.start_canvas(PROMPT, 16, MASK)
    for start, stop in decode.blocks(PROMPT, 16, 8):
        while (canvas[:, start:stop] == MASK).any():
            logits = LLADA(canvas).logits
            masked = canvas == MASK
            masked[:, stop:] = False
            tail = logits[:, start - shift : canvas.shape[1] - shift]
            token, commit = decode.choose(tail, masked[:, start:], MASK, 1, None)
            canvas[:, start:][commit] = token[commit]
    return canvas


def shifted_loop() -> Tensor:
    """Takes the logits of the position before, as models made from autoregressive ones do."""
    canvas = decode.start_canvas(PROMPT, 8, MASK)
    while (canvas == MASK).any():
        logits = HF(canvas).logits
        logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
        token, commit = decode.choose(logits, canvas == MASK, MASK, 2, None)
        canvas = torch.where(commit, token, canvas)
    return canvas


def draft_loop() -> Tensor:
    """Fills a draft of the whole canvas in every step and takes the best of it."""
    canvas = decode.start_canvas(PROMPT, 8, MASK)
    while (canvas == MASK).any():
        masked = canvas == MASK
        logits = BARE(canvas)
        token, commit = decode.choose(logits, masked, MASK, 3, None)
        draft = torch.where(masked, token, canvas)
        canvas[commit] = draft[commit]
    return canvas


def batch_loop() -> Tensor:
    """Two requests whose commits are at different places."""
    canvas = decode.start_canvas(PROMPT, 8, MASK).repeat(2, 1)
    canvas[1, 0] = 17
    while (canvas == MASK).any():
        masked = canvas == MASK
        token, _ = decode.choose(HF(canvas).logits, masked, MASK, 0, None)
        for b in range(2):
            where = masked[b].nonzero().squeeze(-1)[b:][:2]
            where = masked[b].nonzero().squeeze(-1)[:1] if where.numel() == 0 else where
            canvas[b, where] = token[b, where]
    return canvas


def opaque_loop() -> Tensor:
    """Takes the canvas through numpy, where nobody can follow it."""
    canvas = decode.start_canvas(PROMPT, 8, MASK)
    while (canvas == MASK).any():
        token, commit = decode.choose(BARE(canvas), canvas == MASK, MASK, 2, None)
        canvas = torch.from_numpy(
            torch.where(commit, token, canvas).numpy().copy()  # a new tensor without history
        )
    return canvas


LOOPS: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
    "in-place": (LLADA, in_place_loop),
    "shifted": (HF, shifted_loop),
    "draft": (BARE, draft_loop),
    "batch": (HF, batch_loop),
    "opaque": (BARE, opaque_loop),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", LOOPS)
def test_other_correct_loops_give_no_finding(
    name: str, mode: Callable[[], AbstractContextManager[object]]
) -> None:
    net, loop = LOOPS[name]
    with mode():
        report, canvas = watched(net, loop)
        assert torch.equal(canvas, loop())
    assert report.events == (), report.text()
    assert not report.failed


# What is done with rows: each snippet gets the states of all positions after layer 2, [1, 23, 32],
# those of positions 7 to 14 of a later call, [1, 8, 32], and the logits and tokens of each.


@dataclass(frozen=True, eq=False)
class Rows:
    full: Tensor
    block: Tensor
    full_logits: Tensor
    block_token: Tensor


def look_at(snippet: Callable[[Rows], object]) -> Report:
    ids = torch.arange(LENGTH)[None]
    replace = torch.zeros_like(ids, dtype=torch.bool)
    replace[:, START:STOP] = True
    with torch.no_grad(), sanitize(LLADA) as report:
        whole = LLADA(ids, use_cache=True, output_hidden_states=True)
        part = LLADA(
            ids[:, START:STOP],
            past_key_values=whole.past_key_values,
            replace_position=replace,
            output_hidden_states=True,
        )
        assert whole.hidden_states is not None
        assert part.hidden_states is not None
        token = part.logits.argmax(-1)
        snippet(Rows(whole.hidden_states[2], part.hidden_states[2], whole.logits, token))
    return report


def heads(x: Tensor) -> Tensor:
    return x.view(1, -1, 4, 8).transpose(1, 2)


def largest(r: Rows) -> Tensor:
    """Positions of the five longest states, in no order."""
    return r.full.norm(dim=-1).topk(5, dim=1, sorted=False).indices[0]


def reused_buffer(r: Rows) -> None:
    buffer = torch.empty_like(r.block)
    for start in (0, 8, 15):
        buffer.copy_(r.full[:, start : start + 8])
    for start in (0, 8, 15):
        buffer[:] = r.full[:, start : start + 8]


def permuted_and_back(r: Rows) -> Tensor:
    order = r.block.norm(dim=-1).argsort(dim=1)[0]
    back = order.argsort()
    return r.block[:, order][:, back] - r.full[:, START:STOP]


def taken_apart_and_joined(r: Rows) -> Tensor:
    a, b = r.full.chunk(2, dim=1)
    rows = [row.unsqueeze(0) for row in torch.cat([a, b], dim=1)[0].unbind(0)]
    parts = torch.cat(rows).split([START, STOP - START, LENGTH - STOP])
    return torch.stack([parts[1]]) * r.block


def running_sum(r: Rows) -> Tensor:
    total = torch.zeros_like(r.block)
    total += r.full[:, START:STOP]
    return total.add_(r.block)


SILENT: dict[str, Callable[[Rows], object]] = {
    "slice": lambda r: F.cosine_similarity(r.full[:, START:STOP], r.block, dim=-1),
    "index by position": lambda r: r.full[:, torch.arange(START, STOP)] - r.block,
    "bool mask": lambda r: r.full[0, (torch.arange(LENGTH) // 8 == 1)] * r.full[0, 8:16],
    "index_select": lambda r: r.full.index_select(1, torch.arange(START, STOP)) + r.block,
    "topk, unsorted": lambda r: r.full[:, largest(r)] - r.full.clone().index_select(1, largest(r)),
    "gather": lambda r: (
        r.full.gather(1, largest(r)[None, :, None].expand(1, 5, 32)) * r.full[:, largest(r)].clone()
    ),
    "row by row": lambda r: [
        F.cosine_similarity(r.full[0, START + j, :][None], r.block[0, j, :][None], dim=-1).item()
        for j in range(8)
    ],
    "permuted and back": permuted_and_back,
    "apart and joined": taken_apart_and_joined,
    "one row with many": lambda r: F.cosine_similarity(r.full[:, 3:4], r.block, dim=-1),
    "every row with every": lambda r: r.full[:, :, None] * r.block[:, None],
    "matrix of products": lambda r: r.block @ r.full.mT,
    "neighbours": lambda r: r.full[:, 1:] - r.full[:, :-1],
    "centred": lambda r: r.block - r.full.mean(dim=1, keepdim=True),
    "heads": lambda r: heads(r.full)[:, :, START:STOP] * heads(r.block),
    "keys hidden": lambda r: (heads(r.block) @ heads(r.full).mT).masked_fill(
        r.full_logits.argmax(-1)[:, None, None, :] > 3, -1e9
    ),
    "buffer used again": reused_buffer,
    "sum over steps": running_sum,
    "written by position": lambda r: r.full.clone().index_copy_(
        1, torch.arange(START, STOP), r.block
    ),
    "scattered by position": lambda r: r.full.scatter(
        1, torch.arange(START, STOP)[None, :, None].expand(1, 8, 32), r.block
    ),
    "attention": lambda r: F.scaled_dot_product_attention(r.block, r.full, r.full * 2),
    "confidence": lambda r: (
        r.full_logits[:, START:STOP].softmax(-1).gather(-1, r.block_token[..., None])
    ),
    "repeated": lambda r: r.block.repeat(2, 1, 1) * r.full[:, START:STOP].expand(2, 8, 32),
    "way not known": lambda r: torch.einsum("bld->bld", r.full[:, :8]) - r.block,
    "indices": lambda r: torch.where(r.block[0, :, 0] > -100)[0] - r.full_logits[0, :8].argmax(-1),
    "constants": lambda r: r.full.clone()[:, :8].mul_(2).zero_() + r.block,
}


@pytest.mark.parametrize("name", SILENT)
def test_rows_of_equal_positions_are_no_finding(name: str) -> None:
    report = look_at(SILENT[name])
    assert report.events == (), report.text()
    assert not report.failed


def written_slots(r: Rows) -> None:
    r.full.clone()[:, 3:6] = r.block[:, :3]


def added_in_place(r: Rows) -> None:
    total = r.full[:, :8].clone()
    total += r.block


MIXED: dict[str, Callable[[Rows], object]] = {
    "cosine": lambda r: F.cosine_similarity(r.full[:, :8], r.block, dim=-1),
    "subtracted": lambda r: r.full[:, :8] - r.block,
    "chosen": lambda r: torch.where(torch.rand(1, 8, 1) > 0.5, r.full[:, :8], r.block),
    "added in place": added_in_place,
    "stacked rows": lambda r: torch.stack([r.full[0, j] for j in range(8)]) * r.block[0],
    "single rows": lambda r: r.full[0, 0] * r.block[0, 0],
    "heads": lambda r: torch.maximum(heads(r.full)[:, :, :8], heads(r.block)),
    "stacked layers": lambda r: (
        torch.stack([r.full, r.full])[:, :, :8] * torch.stack([r.block] * 2)
    ),
    "written": lambda r: r.full.clone().index_copy_(1, torch.arange(8), r.block),
    "scattered": lambda r: r.full.scatter(
        1, torch.arange(8)[None, :, None].expand(1, 8, 32), r.block
    ),
    "index_put": lambda r: r.full[0].clone().index_put_((torch.arange(8),), r.block[0]),
    "compared": lambda r: torch.equal(r.full[:, :8], r.block),
    "keys and values": lambda r: F.scaled_dot_product_attention(r.block, r.full[:, :8], r.block),
    "confidence": lambda r: r.full_logits[:, :8].gather(-1, r.block_token[..., None]),
    "normalised": lambda r: F.normalize(r.full[:, :8].float(), dim=-1) * r.block.float(),
    "repeated": lambda r: r.block.repeat(2, 1, 1) * r.full[:, :8].expand(2, 8, 32),
}


@pytest.mark.parametrize("name", MIXED)
def test_rows_of_different_positions_are_found(name: str) -> None:
    report = look_at(MIXED[name])
    event = only(report)
    assert event.kind == "misaligned_rows"
    assert event.source.startswith("tests/foreign/sanitizer/test_sanitize.py:")
    assert event.forward == 1
    assert {(event.positions_a[0], event.positions_b[0])} <= {(0, START), (START, 0)}


FOLLOWED: dict[str, Callable[[Tensor], Tensor]] = {
    "transpose": lambda x: x.transpose(0, 1),
    "permute": lambda x: x.permute(2, 1, 0),
    "mT": lambda x: x.mT,
    "flatten": lambda x: x.flatten(),
    "flatten heads": lambda x: heads(x).transpose(1, 2).flatten(2),
    "unflatten": lambda x: x.unflatten(1, (2, 4)),
    "reshape": lambda x: x.reshape(-1, 16),
    "cat": lambda x: torch.cat([x[:, :3], x[:, 3:]], dim=1),
    "stack": lambda x: torch.stack([x[0, j] for j in range(8)]),
    "chunk": lambda x: x.chunk(2, dim=1)[1],
    "split": lambda x: x.split([1, 7], dim=1)[1],
    "tensor_split": lambda x: x.tensor_split(4, dim=1)[2],
    "unbind": lambda x: x.unbind(1)[5],
    "iteration": lambda x: list(x[0])[2],
    "expand": lambda x: x.unsqueeze(0).expand(3, -1, -1, -1),
    "repeat": lambda x: x.repeat(1, 2, 2),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=1),
    "squeeze": lambda x: x.squeeze(0).squeeze(),
    "narrow": lambda x: x.narrow(1, 2, 3),
    "select": lambda x: x.select(1, 4),
    "masked_select": lambda x: x.masked_select(torch.arange(8)[None, :, None] > 3),
    "numbers": lambda x: x[:, [4, 2, 6]],
    "take_along_dim": lambda x: x.take_along_dim(torch.tensor([3, 1])[None, :, None], dim=1),
    "casts": lambda x: x.float().to(torch.float64).clone().detach().contiguous(),
    "norm": lambda x: F.rms_norm(x, (32,)),
    "linear": lambda x: F.silu(F.linear(x, torch.ones(5, 32, dtype=x.dtype))),
    "matmul": lambda x: (x @ x.mT).softmax(-1) @ x,
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "largest": lambda x: x.max(dim=-1).values,
    "mean": lambda x: x.mean(-1),
    "length": lambda x: torch.linalg.vector_norm(x, dim=-1),
    "token": lambda x: x.argmax(dim=-1),
    "looked up": lambda x: torch.ones(32, 4)[x.argmax(dim=-1)],
    "embedding": lambda x: F.embedding(x.argmax(dim=-1), torch.ones(32, 4)),
    "topk": lambda x: x.topk(2, dim=-1).values,
    "sorted rows": lambda x: x[..., 0].abs().add(torch.arange(8)).sort(dim=1).values,
    "new tensor": lambda x: torch.zeros(1, 9, 32, dtype=x.dtype).index_copy_(1, torch.arange(8), x),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_positions_are_followed_through(name: str) -> None:
    way = FOLLOWED[name]
    mixed = look_at(lambda r: way(r.full[:, :8]) + way(r.block))
    assert only(mixed).kind == "misaligned_rows"
    assert not mixed.failed
    equal = look_at(lambda r: way(r.full[:, START:STOP]) + way(r.block))
    assert equal.events == (), equal.text()


def test_each_request_of_a_batch_has_its_own_positions() -> None:
    ids = torch.arange(LENGTH).repeat(2, 1)
    mine = torch.tensor([[2, 5, 9], [1, 8, 4]])
    counts = list[int]()
    for other in (mine, mine.flip(0)):
        with torch.no_grad(), sanitize(HF) as report:
            states = HF(ids, output_hidden_states=True).hidden_states
            assert states is not None
            rows = HF(ids.gather(1, mine), position_ids=mine, output_hidden_states=True)
            assert rows.hidden_states is not None
            index = other[..., None].expand(2, 3, 32)
            rows.hidden_states[2] - states[2].gather(1, index)
        counts.append(len(report.events))
    assert counts == [0, 1]


def test_rows_in_another_order_are_found() -> None:
    event = only(look_at(lambda r: r.full[:, START:STOP].flip(1) * r.block))
    assert event.positions_a == tuple(range(STOP - 1, START - 1, -1))
    assert event.positions_b == tuple(range(START, STOP))


def test_a_write_of_some_slots_names_slots_and_rows() -> None:
    event = only(look_at(written_slots))
    assert event.positions_a == (3, 4, 5)
    assert event.positions_b == (START, START + 1, START + 2)


def test_wrong_and_right_similarity_stand_side_by_side() -> None:
    values = list[float]()

    def compare(r: Rows) -> None:
        wrong = F.cosine_similarity(r.full[:, :8], r.block, dim=-1)
        values.append(wrong[0, 0].item())
        right = F.cosine_similarity(r.full[0, START].float(), r.block[0, 0].float(), dim=-1)
        values.append(right.item())

    event = only(look_at(compare))
    assert event.numbers["similarity_wrong"] == pytest.approx(values[0])
    assert event.numbers["similarity_right"] == pytest.approx(values[1])
    assert abs(values[0] - values[1]) > 0.01
    assert f"{values[0]:.6f}" in event.message
    assert f"{values[1]:.6f}" in event.message


def test_a_right_similarity_that_is_gone_is_left_out() -> None:
    event = only(look_at(lambda r: (r.full[:, :4] * 1.0) * r.block[:, :4]))
    assert "similarity_wrong" in event.numbers
    assert "similarity_right" not in event.numbers


# Faulty decoders.


def test_the_token_skip_that_compares_by_row_number_is_found() -> None:
    report, _ = watched(
        LLADA, lambda: decode.dual_cache(LLADA, PROMPT, skip_layer_k=3, skip_threshold=0.9)
    )
    event = report.events[0]
    assert event.kind == "misaligned_rows"
    assert event.source.startswith("specimens/llada_style.py:")
    assert (event.positions_a, event.positions_b) == ((0,), (START,))
    assert event.forward == 1
    # Two layers of eight rows in the first cached step of each of the two blocks.
    assert event.count == 32
    assert set(event.numbers) == {"similarity_wrong", "similarity_right"}


@torch.no_grad()
def test_a_trace_by_hand_is_found_and_one_by_position_is_not() -> None:
    canvas = decode.start_canvas(PROMPT, 16, MASK)
    replace = torch.zeros_like(canvas, dtype=torch.bool)
    replace[:, START:STOP] = True
    counts = list[int]()
    for offset in (0, START):
        with sanitize(LLADA) as report:
            out = LLADA(canvas, use_cache=True, output_hidden_states=True)
            after = LLADA(
                canvas[:, START:STOP],
                past_key_values=out.past_key_values,
                replace_position=replace,
                output_hidden_states=True,
            )
            assert out.hidden_states is not None
            assert after.hidden_states is not None
            decode.row_similarities(out.hidden_states, after.hidden_states, 3, offset)
        counts.append(sum(e.count for e in report.events if e.kind == "misaligned_rows"))
    assert counts == [16, 0]


@pytest.mark.parametrize("shift", [-START, 3])
def test_wrong_position_ids_are_found(shift: int) -> None:
    report, _ = watched(HF, lambda: decode.prefix_cache(HF, PROMPT, shift=shift))
    event = only(report)
    assert event.kind == "misaligned_rows"
    assert event.source.startswith("specimens/decode.py:")
    assert "position_ids" in event.message
    assert (event.positions_a[0], event.positions_b[0]) == (START, START + shift)


def test_rows_written_to_wrong_cache_positions_are_found() -> None:
    report, _ = watched(LLADA, lambda: decode.dual_cache(LLADA, PROMPT, fault="replace_off_by_one"))
    assert kinds(report) == {"misaligned_rows"}
    sources = {event.source.partition(":")[0] for event in report.events}
    assert sources == {"specimens/decode.py", "specimens/llada_style.py"}
    write = next(event for event in report.events if "setitem" in event.message)
    assert (write.positions_a[0], write.positions_b[0]) == (START - 1, START)


def test_tokens_taken_from_other_rows_are_found() -> None:
    with sanitize(LLADA, mask_id=MASK, score_offset=0) as report:
        in_place_loop(shift=1)
    assert "misaligned_rows" in kinds(report)


def test_scores_of_the_row_before_are_told_and_are_no_mix_up() -> None:
    report, _ = watched(LLADA, lambda: in_place_loop(shift=1))
    assert kinds(report) == {"score_offset"}
    with pytest.raises(ConfigError, match="score_offset is 2"), sanitize(LLADA, score_offset=2):
        pass


# Low precision.


def test_a_similarity_in_bfloat16_is_found_with_its_grid() -> None:
    report, _ = watched(
        COARSE, lambda: decode.dual_cache(COARSE, PROMPT, skip_layer_k=3, skip_threshold=0.9)
    )
    event = only(report)
    assert event.kind == "low_precision_similarity"
    assert event.numbers["grid_step"] == 2**-8
    assert event.numbers["pairs"] == event.count == 224
    assert 0.1 < event.numbers["share_differing"] < 0.9
    assert event.numbers["computed"] % 2**-9 == 0
    assert event.numbers["computed"] != event.numbers["float32"]
    assert abs(event.numbers["computed"] - event.numbers["float32"]) < 0.02


def test_a_similarity_written_out_in_bfloat16_is_found() -> None:
    def similarity(r: Rows, dtype: torch.dtype) -> Tensor:
        a, b = r.full[:, START:STOP].to(dtype), r.block.to(dtype)
        return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))

    event = only(look_at(lambda r: similarity(r, torch.bfloat16)))
    assert event.kind == "low_precision_similarity"
    assert event.numbers["float32"] == pytest.approx(1.0)
    assert look_at(lambda r: similarity(r, torch.float32)).events == ()


# Caches.


def test_one_cache_for_two_runs_of_a_step_is_found_and_copies_are_not() -> None:
    for separate in (False, True):
        with sanitize(ALIGNED) as report:
            decode.single_step_twice(ALIGNED, PROMPT, separate=separate)
        found = [event for event in report.events if event.kind == "cache_overwritten"]
        assert len(found) == (0 if separate else 1)
    with sanitize(ALIGNED) as report:
        decode.single_step_twice(ALIGNED, PROMPT)
    event = next(event for event in report.events if event.kind == "cache_overwritten")
    assert event.source.startswith("specimens/decode.py:")
    assert event.numbers["first_forward"] == 1
    assert event.positions_a == tuple(range(START, STOP))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_snapshot_that_is_an_alias_is_found_and_one_put_back_is_not(
    mode: Callable[[], AbstractContextManager[object]],
) -> None:
    def go_back(restore: bool) -> Report:
        ids = torch.arange(LENGTH)[None]
        replace = torch.zeros_like(ids, dtype=torch.bool)
        replace[:, START:STOP] = True
        with mode(), sanitize(LLADA) as report:
            past = LLADA(ids, use_cache=True).past_key_values
            assert past is not None
            before = list(past)
            copies = [(k.clone(), v.clone()) for k, v in past]
            first = ids[:, START:STOP].clone()
            first[0, 2] = 40
            second = first.clone()
            second[0, 3] = 41
            for block in (first, second):
                LLADA(block, past_key_values=past, replace_position=replace)
            if restore:
                for (k, v), (old_k, old_v) in zip(before, copies, strict=True):
                    k.copy_(old_k)
                    v.copy_(old_v)
            LLADA(first, past_key_values=before, replace_position=replace)
        return report

    assert only(go_back(restore=False)).kind == "cache_overwritten"
    assert go_back(restore=True).events == ()


def test_a_cache_that_grows_by_new_tensors_may_be_used_twice() -> None:
    ids = torch.arange(LENGTH)[None]
    with torch.no_grad(), sanitize(HF) as report:
        past = HF(ids[:, :START], use_cache=True).past_key_values
        for _ in range(2):
            HF(ids[:, START:], past_key_values=past, use_cache=True)
    assert report.events == ()


# Masks that are left.


@pytest.mark.parametrize("style", ["llada", "bare"])
def test_masks_left_by_a_budget_are_found(style: str) -> None:
    loops: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        "llada": (
            LLADA,
            lambda: decode.dual_cache(LLADA, PROMPT, threshold=0.999, fault="budget"),
        ),
        "bare": (BARE, lambda: decode.plain(BARE, PROMPT, MASK, threshold=0.999, finish=False)),
    }
    net, loop = loops[style]
    report, canvas = watched(net, loop)
    event = only(report)
    assert event.kind == "masks_left"
    assert event.positions_a == tuple((canvas[0] == MASK).nonzero()[:, 0].tolist())
    assert event.source.startswith("specimens/decode.py:")


def test_each_of_two_runs_is_asked_for_its_masks() -> None:
    with sanitize(BARE, mask_id=MASK) as report:
        decode.plain(BARE, PROMPT, MASK, threshold=0.999, finish=False)
        decode.plain(BARE, PROMPT, MASK, threshold=0.999)
    event = only(report)
    assert (event.kind, event.count) == ("masks_left", 1)


def test_masks_without_a_known_mask_id_are_not_looked_for_and_the_text_says_so() -> None:
    with sanitize(BARE) as report:
        decode.plain(BARE, PROMPT, MASK, threshold=0.999, finish=False)
    assert report.events == ()
    assert "mask id is not known" in report.text()


# The report.


def test_the_text_names_line_kind_and_count() -> None:
    report, _ = watched(
        LLADA, lambda: decode.dual_cache(LLADA, PROMPT, skip_layer_k=3, skip_threshold=0.9)
    )
    first, second, *_ = report.text().splitlines()
    assert first == f"findings: {len(report.events)}, forwards watched: {report.forwards}"
    assert second.startswith("specimens/llada_style.py:")
    assert "misaligned_rows (forward 1, 32 times" in second


def test_a_model_that_was_not_called_is_said() -> None:
    with sanitize(LLADA) as report:
        pass
    assert report.forwards == 0
    assert "never called" in report.text()
    with sanitize(LLADA) as report:
        LLADA.forward(PROMPT)
    assert report.forwards == 1


def test_rows_that_cannot_be_followed_through_the_model_are_said() -> None:
    class Opaque(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            return torch.from_numpy(BARE(ids).numpy())

    net = Opaque()
    with torch.no_grad(), sanitize(net) as report:
        first, second = net(PROMPT), net(PROMPT)
        first[:, :3] - second[:, 3:6]
    assert report.lost == 2
    assert [event.kind for event in report.events] == ["misaligned_rows"]


def test_nothing_stays_behind() -> None:
    with sanitize(LLADA) as report:
        state = weakref.ref(LLADA(PROMPT).logits)
        assert state() is None
    LLADA(PROMPT)
    assert report.forwards == 1
    assert not LLADA._forward_hooks
    assert not LLADA._forward_pre_hooks


def test_an_error_in_the_code_comes_through_and_leaves_no_hook() -> None:
    with pytest.raises(IndexError), sanitize(LLADA):
        LLADA(torch.tensor([[999]]))
    assert not LLADA._forward_hooks


def test_only_a_torch_module_can_be_watched() -> None:
    with pytest.raises(ConfigError, match="must be the torch module"), sanitize(MODEL):  # pyrefly: ignore
        pass
