"""SDAR's own decoding (JetAstra/SDAR c2041a8, ``generate.py``: ``block_diffusion_generate``).

It takes a quota from the positions of a block even where fewer masks are left, and so overwrites
tokens and the prompt. Where that happened, the answer of the same code with quotas that end with
the masks is what must come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.engine.settings import spelled
from skipstone.testing.golden.case import GoldenAnswer, GoldenCase, InexpressibleError
from skipstone.testing.golden.published.told import check_only
from skipstone.testing.golden.published.whole_blocks import reaching


def sdar(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """One call; it decodes whole blocks, and says what it decoded up to the end of the last."""
    prompt, block = tuple(case["prompt"]), case["block_length"]
    check_only(case, top_k=(None, 0), top_p=(None, 1.0))
    expect = case.get("expect_capped") or case["expect"]
    yield GoldenCase(
        name=name,
        kind=case["remasking_strategy"],
        prompt=prompt,
        settings={
            "unmask": _rule(case),
            "gen_length": str(reaching(len(prompt), case["gen_length"], block)),
            "block_length": str(block),
            "temperature": str(case["temperature"]),
            "eos_stop": "false",
            "stop_after": "block",
            "stop_ids": spelled(tuple(case["stopping_criteria_idx"] or ())),
        },
        wanted=GoldenAnswer(tuple(expect["tokens"]), expect["forwards"]),
    )


def _rule(case: Mapping[str, Any]) -> str:
    steps = f"quota:steps={case['denoising_steps']}"
    match case["remasking_strategy"]:
        case "low_confidence_static":
            return steps
        case "low_confidence_dynamic":
            return f"{steps},threshold={case['confidence_threshold']!r}"
        case "sequential":
            return f"{steps},order=left_to_right"
        case other:
            raise InexpressibleError(f"remasking_strategy {other!r} is no rule that could be run")
