"""Noise is measured where the model is not sure: elsewhere it does not show."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch.nn.functional as F
from torch import Tensor

from skipstone import Engine, Settings, load
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import Diagnosis, diagnose
from skipstone.record import MemoryTrace
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import ExperimentRunner, Side
from skipstone.unmask import DreamThreshold

SETTINGS = Settings(gen_length=24, block_length=8, unmask=DreamThreshold())
# Its first two blocks are as good as certain, so that noise in them is far below that in the last.
PROMPT = "Add the numbers 12, 24, 12, 2 one by one."


def test_sums_in_another_order_are_no_departure() -> None:
    assert str(found(1.0).verdict) == "same"


def test_a_change_beyond_noise_is_one() -> None:
    """Control: a hundred thousandth, which turns no decision."""
    assert str(found(1.00001).verdict) == "inconclusive"


def found(scale: float) -> Diagnosis:
    model = load("pebble")
    engine = Engine(model, SETTINGS)
    a = recorded(engine)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(F, "linear", halves(scale))
        b = recorded(engine)
    return diagnose(Case(a, b, ExperimentRunner(Side(a, 0, engine), Side(b), model)))


def recorded(engine: Engine) -> MemoryTrace:
    recorder = Recorder("decisions")
    engine.generate(PROMPT, observer=recorder)
    return recorder.trace


def halves(scale: float) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """Products that are summed in two halves, the second one larger by a factor."""
    whole = F.linear

    def apart(x_NK: Tensor, weight_OK: Tensor, bias_O: Tensor | None = None) -> Tensor:
        half = weight_OK.shape[1] // 2
        first_NO = whole(x_NK[..., :half], weight_OK[:, :half], bias_O)
        return first_NO + scale * whole(x_NK[..., half:], weight_OK[:, half:])

    return apart
