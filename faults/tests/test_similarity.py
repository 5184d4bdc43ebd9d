"""A similarity that was taken with another position's states is seen, with that position."""

from __future__ import annotations

import numpy as np

from faults.engine.skip import misaligned_reference
from skipstone import CosineSkip, Engine, Fixed, Settings
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.similarity import replayed
from skipstone.testing import tiny_model
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import ExperimentRunner, Side

MODEL = tiny_model(1, norm_noise=0.2)
SKIP = CosineSkip(skip_layer_k=3, skip_threshold=0.99, skip_outlier=0.0)


def test_a_similarity_with_another_position_is_seen_with_that_position() -> None:
    settings = Settings(gen_length=18, block_length=6, eos_stop=False, skip=SKIP, unmask=Fixed())
    recorder = Recorder("full")
    with misaligned_reference():
        Engine(MODEL, settings).generate([33, 58, 4, 55, 50], observer=recorder)
    b = recorder.trace
    judged = [step for step in b.records[0].steps if step.judgements is not None]
    assert judged
    for step in judged:
        assert step.judgements is not None
        case = Case(b, b, ExperimentRunner(Side(b), Side(b), MODEL))
        case.tensors.focus = step.forward
        found = replayed(case, step)
        assert found is not None
        if step.step == 1:
            wrong = np.arange(len(step.judgements)) != step.judgements.position
            assert found.other[wrong].tolist() == np.flatnonzero(wrong).tolist()
            assert found.crossed[wrong].mean() > 0.5
        else:
            assert not found.crossed.any()
