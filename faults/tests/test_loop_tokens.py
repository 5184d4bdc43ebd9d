"""Tokens that are not the best of their row: which other logits decided them, or was it chance?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from faults import loop_faults
from faults.engine.instead import Fault
from faults.foreign import JOBS
from faults.foreign_code import STYLES, model, plain
from skipstone import attach, diagnose
from skipstone.diagnosis.finding import Proof
from skipstone.diagnosis.loop import identified
from skipstone.record import MemoryTrace

JOB = JOBS[0]
Change = Callable[[Tensor, Tensor], Tensor]
"""What is done to logits [B, L, V] of a canvas [B, L]."""


def penalised(logits: Tensor, canvas: Tensor) -> Tensor:
    seen = torch.zeros(logits.shape[0], logits.shape[-1]).scatter(1, canvas, 1.0).bool()[:, None]
    less = torch.where(logits > 0, logits / 1.3, logits * 1.3)
    return torch.where(seen, less, logits)


def cut_short(logits: Tensor, canvas: Tensor) -> Tensor:
    logits[..., logits.shape[-1] // 2 :] = -torch.inf
    return logits


def late() -> Change:
    kept = list[Tensor]()

    def change(logits: Tensor, canvas: Tensor) -> Tensor:
        kept.append(logits.clone())
        return kept[-2] if len(kept) > 1 else logits

    return change


def recorded(
    change: Change | None = None, fault: Fault | None = None, mask_raised: float = 0.0
) -> MemoryTrace:
    net = STYLES["bare"](model("random"))

    def raised(net: nn.Module, args: object, logits: Tensor) -> Tensor:
        return logits + mask_raised * (torch.arange(logits.shape[-1]) == JOB.mask_id)

    net.get_submodule("words").register_forward_hook(raised)
    canvases = list[Tensor]()

    def keep(net: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        canvases.append((args[0] if args else next(iter(kwargs.values()))).clone())

    net.register_forward_pre_hook(keep, with_kwargs=True)
    if change is not None:
        fault = loop_faults.chosen_by(
            loop_faults.probability, change=lambda logits: change(logits, canvases[-1])
        )
    stated = {"block_length": JOB.block_length}
    watcher = attach(net, mask_id=JOB.mask_id, eos_id=JOB.eos_id, level="full", stated=stated)
    with (fault or loop_faults.chosen_by(loop_faults.probability))(), watcher:
        plain(net, JOB)
    return watcher.trace


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (late(), "B decides by the logits of the step before, A by its own"),
        (penalised, "B makes tokens that stand on the canvas less likely, by a penalty of about"),
        (cut_short, "B never takes a token from"),
    ],
    ids=["the step before", "a penalty", "a range of ids"],
)
def test_other_logits_are_no_chance(change: Change, words: str) -> None:
    cause = diagnose(recorded(), recorded(change)).cause
    assert cause is not None
    assert (cause.rule, cause.proof) == ("commit-rule", Proof.NECESSARY_AND_SUFFICIENT)
    assert words in cause.what


def test_tokens_that_nothing_explains_are_not_said_to_be_drawn() -> None:
    def worst(logits: Tensor, canvas: Tensor) -> Tensor:
        return -logits if int(canvas.sum()) % 2 == 0 else logits

    cause = diagnose(recorded(), recorded(worst)).cause
    assert cause is not None
    assert cause.rule == "commit-rule"
    assert "tokens that are not the best of its logits" in cause.what


def mask_left_out(logits: Tensor, canvas: Tensor) -> Tensor:
    logits[..., JOB.mask_id] = -torch.inf
    return logits


def test_a_mask_that_is_the_best_may_count_in_the_softmax_or_not() -> None:
    """Published code counts it; who leaves it out first has other confidences."""
    counted, left_out = (recorded(change, mask_raised=20.0) for change in (None, mask_left_out))
    for trace, summed in ((counted, (JOB.mask_id,)), (left_out, ())):
        best = identified(trace, 0).best
        assert best is not None
        assert best.complete
        assert best.rule.predicts
        assert (best.rule.draw.without, best.rule.draw.still_summed) == ((JOB.mask_id,), summed)
    cause = diagnose(counted, left_out).cause
    assert cause is not None
    assert (cause.rule, cause.proof) == ("commit-rule", Proof.NECESSARY_AND_SUFFICIENT)
    assert "A's softmax has the tokens that are never taken, B's has not" in cause.what


def test_drawn_tokens_are_said_to_be_drawn() -> None:
    cause = diagnose(recorded(), recorded(fault=loop_faults.warm)).cause
    assert cause is not None
    assert cause.rule == "sampler"
