"""Attention that is rotated, scaled or masked otherwise in every layer: named, or left open."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from faults.foreign import Encounter, Outcome, run
from faults.foreign_cases import FAULTY
from specimens import llada_style, parts


@contextmanager
def half_speed() -> Generator[None]:
    """Every row is rotated as if positions were half as far apart."""

    def slower(positions: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
        return parts.angles(positions / 2, head_width, theta)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llada_style, "angles", slower)
        yield


@contextmanager
def neighbours() -> Generator[None]:
    """Neighbouring numbers are pairs, by angles that are laid out for halves."""

    def wrong(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        partner = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        return (x * cos + partner * sin).to(x.dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llada_style, "rotate", wrong)
        yield


@contextmanager
def coarse() -> Generator[None]:
    """Rotated in bfloat16."""

    def wrong(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        x16, cos16, sin16 = x.bfloat16(), cos.bfloat16(), sin.bfloat16()
        partner = torch.cat([-x16[..., half:], x16[..., :half]], dim=-1)
        return (x16 * cos16 + partner * sin16).to(x.dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llada_style, "rotate", wrong)
        yield


@contextmanager
def wrong_scale() -> Generator[None]:
    """Scores are divided by the width of a head."""
    attend = F.scaled_dot_product_attention

    def wrong(q: Tensor, k: Tensor, v: Tensor, enable_gqa: bool = False) -> Tensor:
        return attend(q, k, v, scale=1 / q.shape[-1], enable_gqa=enable_gqa)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llada_style.F, "scaled_dot_product_attention", wrong)
        yield


@contextmanager
def every_other_key() -> Generator[None]:
    """A mask that nobody would try."""
    attend = F.scaled_dot_product_attention

    def wrong(q: Tensor, k: Tensor, v: Tensor, enable_gqa: bool = False) -> Tensor:
        rows, keys = torch.arange(q.shape[2]), torch.arange(k.shape[2])
        seen = (rows[:, None] + keys) % 3 > 0
        return attend(q, k, v, attn_mask=seen, enable_gqa=enable_gqa)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llada_style.F, "scaled_dot_product_attention", wrong)
        yield


def found_with(fault: AbstractContextManager[None]) -> Outcome:
    """The diagnosis of a plain loop, with a model at hand."""
    base = next(s for s in FAULTY if (s.style, s.name) == ("llada", "causal mask left on"))
    stranger = replace(base, name="attends otherwise", fault=lambda: fault)
    return run(Encounter(stranger, stranger.jobs[0], "code"))


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        (half_speed, "position-encoding"),
        (neighbours, "position-encoding"),
        (coarse, "position-encoding"),
        (wrong_scale, "module-bug"),
    ],
)
def test_what_attention_does_otherwise_is_tried_in_the_reference(
    fault: Callable[[], AbstractContextManager[None]], verdict: str
) -> None:
    assert found_with(fault()).verdict == verdict


def test_a_mask_that_no_run_gives_is_read_from_what_attention_was_given() -> None:
    assert found_with(every_other_key()).verdict == "visible-set"
