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


def recorded(change: Change | None = None, fault: Fault | None = None) -> MemoryTrace:
    net = STYLES["bare"](model("random"))
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


def test_drawn_tokens_are_said_to_be_drawn() -> None:
    cause = diagnose(recorded(), recorded(fault=loop_faults.warm)).cause
    assert cause is not None
    assert cause.rule == "sampler"
