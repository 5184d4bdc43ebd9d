"""Stable-DiffCoder's own decoding (``StableDiffcoderForCausalLM.generate_block``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.engine.settings import spelled
from skipstone.testing.golden.case import GoldenAnswer, GoldenCase, InexpressibleError


def stable_diffcoder(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """One call. It has the steps of all blocks; behind an EOS, a block is written over with it."""
    _check(case)
    threshold = case["threshold"]
    # Counted without the block that a prompt's tail adds.
    steps = case["steps"] // (case["gen_length"] // case["block_length"])
    rule = f"quota:steps={steps},over=masks"
    if threshold is not None:
        rule = f"threshold:value={threshold!r}"
    tokens, eos_id = case["expect"]["tokens"], case["eos_id"]
    ended = eos_id in tokens
    yield GoldenCase(
        name=name,
        kind="fixed" if threshold is None else "threshold",
        prompt=tuple(case["prompt"]),
        settings={
            "unmask": rule,
            "gen_length": str(case["gen_length"]),
            "block_length": str(case["block_length"]),
            "temperature": str(case["temperature"]),
            "eos_stop": "false",
            "stop_ids": spelled(() if eos_id is None else (eos_id,)),
        },
        wanted=GoldenAnswer(
            tuple(tokens[: tokens.index(eos_id) + 1] if ended else tokens),
            case["expect"]["forwards"],
            is_cut=ended,
        ),
    )


def _check(case: Mapping[str, Any]) -> None:
    """Refuse what the engine does in another way, or not at all."""
    if case["remasking"] != "low_confidence":
        raise InexpressibleError(f"remasking {case['remasking']!r} draws masks as no rule does")
    if case["shift"]:
        raise InexpressibleError("shift: the checkpoint scores a position by its own row")
    if case["gen_length"] % case["block_length"]:
        raise InexpressibleError("gen_length is no multiple of block_length: the code has no steps")
