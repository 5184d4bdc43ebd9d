"""Every shape of code is recorded as it went: rows, prompts, blocks, candidates, no alarm."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone.foreign.attach.attach import attach
from skipstone.foreign.attach.attached import Attached
from skipstone.record import RunRecord
from tests.foreign.shapes import batches, calling, canvases, rows
from tests.foreign.shapes.common import Shape
from tests.foreign.shapes.network import EOS, MASK


def _shapes(module: ModuleType) -> list[Callable[[], Shape]]:
    """The functions of a module that give a shape and take nothing."""
    found = [f for _, f in inspect.getmembers(module, inspect.isfunction)]
    return [
        f
        for f in found
        if f.__module__ == module.__name__
        and not f.__name__.startswith("_")
        and f.__annotations__.get("return") == "Shape"
        and all(p.default is not p.empty for p in inspect.signature(f).parameters.values())
    ]


SHAPES = [f for module in (rows, canvases, calling, batches) for f in _shapes(module)]
# True of any code, and no alarm.
REMARKS = {"given", "blocks_inferred", "guidance", "skip_cannot_pay", "measuring_cost"}

each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda f: f.__name__)


def recorded(shape: Shape, *, sanitize: bool = False) -> tuple[Attached, Tensor]:
    stated = {} if shape.block_length is None else {"block_length": shape.block_length}
    shape.body.calls.clear()
    with attach(
        shape.model, mask_id=MASK, eos_id=EOS, level="full", stated=stated, sanitize=sanitize
    ) as recorder:
        out = shape.loop()
    return recorder, out


@pytest.mark.parametrize("sanitize", [False, True], ids=["recorded", "sanitized"])
@each_shape
def test_a_shape_of_code_is_recorded_as_it_went(shape: Callable[[], Shape], sanitize: bool) -> None:
    alone = shape().loop()
    made = shape()
    recorder, out = recorded(made, sanitize=sanitize)
    assert torch.equal(out, alone)
    assert len(recorder.traces) == 1
    records = recorder.records
    alarms = [e for r in records for e in r.events if e.kind not in REMARKS]
    assert alarms == []
    assert [len(r.header.prompt_ids) for r in records] == list(made.prompts)
    calls = [c[made.samples] for i, c in enumerate(made.body.calls) if not made.twins(i)]
    for b, record in enumerate(records):
        assert record.prompt_length + record.header.gen_length == out.shape[1]
        assert record.outcome is not None
        assert record.tokens == tuple(out[b, made.prompts[b] :].tolist())
        assert record.outcome.masks_left == 0
        assert [s.rows.tolist() for s in record.steps] == [c[b].tolist() for c in calls]
        check_commits(record, edits=made.edits)
    first = records[0]
    assert list(dict.fromkeys((s.block_start, s.block_stop) for s in first.steps)) == list(
        made.blocks
    )


def check_commits(record: RunRecord, *, edits: bool) -> None:
    """Every new token was committed where it was a mask, with scores of that call."""
    committed = [p for step in record.steps for p in step.committed]
    assert edits or len(committed) == len(set(committed))
    begin = record.prompt_length
    start = np.array([*record.header.prompt_ids, *record.steps[0].ids_before])
    masks = np.flatnonzero(start == MASK)
    assert set(committed) >= set(masks.tolist())
    for step in record.steps:
        for candidate in step.candidates:
            assert step.ids_before[candidate.position - begin] == MASK
            if candidate.committed and not edits:
                assert step.ids_after[candidate.position - begin] == candidate.token
        fresh = step.candidates.position[step.candidates.eligible]
        assert set(fresh.tolist()) <= set(step.rows.tolist())
