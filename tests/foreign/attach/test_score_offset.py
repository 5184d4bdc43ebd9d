"""Loops whose logits are those of the next position: scores stand where they are taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from skipstone.errors import ConfigError
from skipstone.foreign.attach.attach import attach
from skipstone.record import RunRecord, Tap, Trace
from skipstone.testing.tiny import MASK
from specimens import decode, hf_style
from tests.helpers.watching import uneven_model

HF = hf_style.from_model(uneven_model(5))
PROMPT = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])


def shifted(logits: Tensor) -> Tensor:
    return torch.cat([logits[:, :1], logits[:, :-1]], dim=1)


def whole_loop() -> list[Tensor]:
    """Takes the logits of the row before, over the whole canvas; all that it saw of them."""
    canvas, seen = decode.start_canvas(PROMPT, 8, MASK), list[Tensor]()
    while (canvas == MASK).any():
        logits = shifted(HF(canvas).logits)
        seen.append(logits[0].detach().clone())
        token, commit = decode.choose(logits, canvas == MASK, MASK, 2, None)
        canvas = torch.where(commit, token, canvas)
    return seen


def recorded(score_offset: int) -> tuple[RunRecord, Trace, list[Tensor]]:
    with attach(HF, mask_id=MASK, level="full", score_offset=score_offset) as recorder:
        seen = whole_loop()
    return recorder.records[0], recorder.traces[0], seen


def test_candidates_have_the_scores_that_the_loop_chose_by() -> None:
    record, _, seen = recorded(-1)
    assert len(record.steps) == len(seen)
    for step, logits_LV in zip(record.steps, seen, strict=True):
        found = step.candidates
        masks = np.flatnonzero(step.ids_before == MASK) + record.prompt_length
        assert found.position.tolist() == masks.tolist()
        probability_CV = logits_LV[masks].double().softmax(-1)
        probability_CV[:, MASK] = 0
        confidence, token = probability_CV.max(-1)
        assert found.token.tolist() == token.tolist()
        np.testing.assert_allclose(found.confidence, confidence.numpy(), rtol=1e-6)
        taken = step.ids_after[found.position - record.prompt_length]
        assert (taken[found.committed] == found.token[found.committed]).all()
        assert (found.age == 0).all()


def test_logits_stand_at_the_positions_that_they_score() -> None:
    record, trace, seen = recorded(-1)
    for step, logits_LV in zip(record.steps, seen, strict=True):
        (key,) = (k for k in trace.keys(0) if (k.forward, k.tap) == (step.forward, Tap.LOGITS))
        tensor = trace.tensor(0, key)
        assert tensor is not None
        assert tensor.positions.tolist() == list(range(record.length))
        np.testing.assert_array_equal(tensor.values, logits_LV.numpy())


def test_without_it_the_scores_are_those_of_other_rows() -> None:
    wrong, _, _ = recorded(0)
    right, _, _ = recorded(-1)
    for step, beside in zip(wrong.steps, right.steps, strict=True):
        assert step.ids_after.tolist() == beside.ids_after.tolist()
        assert not np.allclose(step.candidates.confidence, beside.candidates.confidence)


def test_rows_that_begin_one_before_their_block() -> None:
    canvas = decode.start_canvas(PROMPT, 8, MASK)
    with attach(HF, mask_id=MASK, score_offset=-1) as recorder:
        past = HF(canvas, use_cache=True).past_key_values
        assert past is not None
        while (canvas == MASK).any():
            logits = HF(canvas).logits[:, 6:14]
            token, commit = decode.choose(logits, canvas[:, 7:] == MASK, MASK, 2, None)
            canvas[:, 7:] = torch.where(commit, token, canvas[:, 7:])
    for step in recorder.records[0].steps[1:]:
        found = step.candidates
        assert found.position[found.committed].size
        assert np.isfinite(found.confidence).all()


@pytest.mark.parametrize("given", [1, -2, 0.5, True, "-1"])
def test_other_offsets_are_refused(given: object) -> None:
    with pytest.raises(ConfigError, match="score_offset is "):
        attach(HF, mask_id=MASK, score_offset=given)  # type: ignore[arg-type]
