"""Layers that add what they added before are told from layers that compute something else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from skipstone import attach
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import Diagnosis, diagnose
from skipstone.diagnosis.loop import identified
from skipstone.record import LAST_UNSEEN, MemoryTrace
from skipstone.testing.tiny import MASK
from specimens import decode, hf_style
from tests.helpers.watching import uneven_model

PROMPT = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])
Adds = Callable[[Tensor, Tensor], Tensor]
"""What a layer gives in place of its own output, from its input and that output."""


def recorded(adds: Adds | None = None) -> MemoryTrace:
    net = hf_style.from_model(uneven_model(5))

    def instead(_: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, object]) -> object:
        assert adds is not None
        return adds(args[0], output[0]), output[1]

    if adds is not None:
        net.model.layers[1].register_forward_hook(instead)
    with attach(net, level="full", mask_id=MASK, stated={"block_length": 8}) as recorder:
        canvas = decode.start_canvas(PROMPT, 8, MASK)
        for _ in range(8):
            logits = net(canvas).logits
            token, commit = decode.choose(logits, canvas == MASK, MASK, 1, None)
            canvas = torch.where(commit, token, canvas)
    return recorder.trace


def found(adds: Adds) -> Diagnosis:
    return diagnose(Case(recorded(), recorded(adds)))


def keeping(every: int, rows: slice) -> Adds:
    """Add to some rows what was added when they were computed last."""
    kept, calls = [torch.zeros(())], [0]

    def adds(given: Tensor, output: Tensor) -> Tensor:
        added = output - given
        if calls[0] % every == 0:
            kept[0] = added.clone()
        else:
            added[:, rows] = kept[0][:, rows]
        calls[0] += 1
        return given + added

    return adds


def test_rows_to_which_a_layer_adds_what_is_old_are_named_with_whose_it_is() -> None:
    cause = found(keeping(4, slice(8, 15))).cause
    assert cause is not None
    assert (cause.rule, cause.where.layer) == ("stale-skipped-state", 2)
    assert "what it added in forward 0" in cause.evidence
    assert set(cause.positions) <= set(range(8, 15))


def test_a_layer_that_computes_something_else_has_kept_nothing() -> None:
    verdicts = {
        found(lambda given, output: given + 1.1 * (output - given)).verdict,
        found(lambda given, output: given).verdict,
        found(lambda given, output: given + output[:, :1] - given[:, :1]).verdict,
    }
    assert "stale-skipped-state" not in verdicts


def test_a_last_canvas_that_nobody_saw_is_said_as_that_and_hides_no_rule() -> None:
    net = hf_style.from_model(uneven_model(5))
    with attach(net, level="full", mask_id=MASK, stated={"block_length": 8}) as recorder:
        ids = [*PROMPT[0].tolist(), *[MASK] * 8]
        for at in range(7, 15):
            ids[at] = int(net(torch.tensor([ids])).logits[0, at].argmax())
    (record,) = recorder.trace.records
    told = [e.message for e in record.events if e.kind == "end_not_seen"]
    assert record.outcome is None
    assert LAST_UNSEEN in told
    # What the last call committed is not known, which is not that it committed nothing.
    assert len(identified(recorder.trace, 0).evidence.decisions) == len(record.steps) - 1
