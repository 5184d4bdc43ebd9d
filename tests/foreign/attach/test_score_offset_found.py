"""Which row scores a position is found from what a loop commits; what is stated counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor

import skipstone
from skipstone.engine import Engine, parse_settings, parse_spec
from skipstone.foreign.attach.attach import attach
from skipstone.foreign.explain.explain import explain
from skipstone.foreign.sanitizer.sanitize import sanitize
from skipstone.models.load import Model
from skipstone.record import Event, RunRecord, Tap
from skipstone.testing import write_checkpoint
from skipstone.tracing import Recorder
from skipstone.tracing.diagnose import diagnose
from specimens import blockwise, decode, qwen_style

Loop = Callable[[qwen_style.QwenModel, Tensor], Tensor]


@cache
def dream() -> tuple[Model, qwen_style.QwenModel, Tensor]:
    """A tiny Dream of ours, the same as foreign code, and a prompt."""
    with TemporaryDirectory() as folder:
        name = "DreamModel"
        model = skipstone.load(write_checkpoint(Path(folder), architecture=name), device="cpu")
    return model, qwen_style.from_model(model), torch.tensor([model.text.encode("a prompt")])


def offsets(record: RunRecord) -> list[Event]:
    return [e for e in record.events if e.kind == "score_offset"]


def recorded(loop: Loop, *, score_offset: int | None = None) -> tuple[RunRecord, Tensor]:
    model, net, prompt = dream()
    with attach(net, mask_id=model.config.mask_id, score_offset=score_offset) as recorder:
        out = loop(net, prompt)
    return recorder.records[0], out


@pytest.mark.parametrize("loop", [blockwise.dream, blockwise.dream_cached])
def test_scores_of_the_row_before_are_found(loop: Loop) -> None:
    record, out = recorded(loop)
    (event,) = offsets(record)
    assert event.numbers["offset"] == -1
    assert event.numbers["own"] == 0
    assert event.numbers["shifted"] >= 4
    assert event.source.startswith("specimens/blockwise.py:")
    best = [c for s in record.steps for c in s.candidates if c.committed]
    assert len(best) == 16
    # Every token is the best of the row that it was read from, and was scored in its own call.
    assert all(c.margin >= 0 and c.age == 0 for c in best)
    assert record.tokens == tuple(out[0, record.prompt_length :].tolist())


def test_logits_stand_where_they_are_read() -> None:
    model, net, prompt = dream()
    with attach(net, mask_id=model.config.mask_id, level="full") as recorder:
        blockwise.dream(net, prompt)
    trace = recorder.trace
    step = trace.records[0].steps[0]
    (key,) = (k for k in trace.keys(0) if (k.forward, k.tap) == (0, Tap.LOGITS))
    tensor = trace.tensor(0, key)
    assert tensor is not None
    assert tensor.positions.tolist() == list(range(trace.records[0].length))
    rows = {p: tensor.values[i] for i, p in enumerate(tensor.positions.tolist())}
    for c in step.candidates:
        if c.committed:
            assert int(rows[c.position].argmax()) == c.token


def test_own_rows_need_no_word() -> None:
    model, net, prompt = dream()
    mask_id = model.config.mask_id
    with attach(net, mask_id=mask_id) as recorder:
        decode.plain(net, prompt, mask_id)
    assert offsets(recorder.records[0]) == []


@pytest.mark.parametrize("stated", [0, -1])
def test_what_is_stated_counts_and_is_held_against_the_commits(stated: int) -> None:
    record, _ = recorded(blockwise.dream, score_offset=stated)
    events = offsets(record)
    assert all(e.numbers["offset"] == stated for e in events)
    # 0 is contradicted; -1 is what the commits show.
    assert ["which counts" in e.message for e in events] == [stated == 0]
    best = [c for s in record.steps for c in s.candidates if c.committed]
    right = all(c.margin >= 0 for c in best)
    assert right == (stated == -1)


@pytest.mark.parametrize("at_hand", [False, True])
def test_a_forgotten_shift_is_named(at_hand: bool) -> None:
    model, net, prompt = dream()
    found = explain(
        net,
        lambda: blockwise.dream(net, prompt),
        lambda: blockwise.dream(net, prompt, scores=blockwise.own_row),
        mask_id=model.config.mask_id,
        reference=model if at_hand else None,
    ).diagnosis
    assert found.cause is not None
    assert found.verdict == "commit-rule"
    assert str(found.cause.what) == "B scores a position by its own row, A by the row before it"
    assert (found.cause.where.block, found.cause.where.step) == (0, 0)


def test_it_is_named_against_our_engine_too() -> None:
    model, net, prompt = dream()
    settings = parse_settings(
        parse_spec(
            "gen_length=16 block_length=16 steps=8 unmask=fixed cache=none eos_stop=false "
            "temperature=0 top_p=1"
        )
    )
    recorder = Recorder("full")
    Engine(model, settings).generate(prompt[0].tolist(), observer=recorder)
    pairs = (blockwise.shifted, "same"), (blockwise.own_row, "commit-rule")
    for scores, verdict in pairs:
        with attach(net, mask_id=model.config.mask_id, level="full") as attached:
            blockwise.dream(net, prompt, scores=scores)
        assert diagnose(recorder.trace, attached.trace, model=model).verdict == verdict


@pytest.mark.parametrize("loop", [blockwise.dream, blockwise.dream_cached])
def test_right_code_of_this_kind_gives_no_alarm(loop: Loop) -> None:
    model, net, prompt = dream()
    mask_id = model.config.mask_id
    found = explain(net, lambda: loop(net, prompt), lambda: loop(net, prompt), mask_id=mask_id)
    assert found.diagnosis.verdict == "same"
    with sanitize(net, mask_id=mask_id) as report:
        loop(net, prompt)
    assert {e.kind for e in report.events} <= {"score_offset"}
