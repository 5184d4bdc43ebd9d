"""LLaDA2's own decoding (``LLaDA2MoeModelLM.generate``), as its model cards have it for 2.0.

That of 2.1 replaces tokens that are committed already, which the engine never does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.engine.settings import spelled
from skipstone.testing.golden.case import GoldenAnswer, GoldenCase, InexpressibleError
from skipstone.testing.golden.published.whole_blocks import reaching


def llada2(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """One call; it decodes whole blocks, and cuts its answer to the length and behind EOS."""
    if case["rule"] != "2.0":
        raise InexpressibleError(
            f"rule {case['rule']} edits tokens that are committed; a commit of the engine is final"
        )
    prompt, block, eos_id = tuple(case["prompt"]), case["block_length"], case["eos_id"]
    steps = min(case["steps"], case["gen_length"] // case["minimal_topk"])
    yield GoldenCase(
        name=name,
        kind="generate, 2.0",
        prompt=prompt,
        settings={
            "unmask": f"quota:steps={steps},threshold={case['threshold']!r}",
            "gen_length": str(reaching(len(prompt), case["gen_length"], block)),
            "block_length": str(block),
            "temperature": str(case["temperature"]),
            "eos_stop": "false",
            "stop_ids": spelled(() if eos_id < 0 else (eos_id,)),
            # Without the early stop, a block with EOS still is the last one.
            "stop_after": "token" if case["eos_early_stop"] else "block",
        },
        wanted=GoldenAnswer(
            tuple(case["expect"]["tokens"]), case["expect"]["forwards"], is_cut=True
        ),
    )
