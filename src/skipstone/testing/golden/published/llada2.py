"""LLaDA2's own decoding (``LLaDA2MoeModelLM.generate``), as its model cards have it.

That of 2.0 commits by quotas; that of 2.1 has no steps, and edits what it has committed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from skipstone.engine.settings import spelled
from skipstone.testing.golden.case import GoldenAnswer, GoldenCase, InexpressibleError
from skipstone.testing.golden.published.told import check_only
from skipstone.testing.golden.published.whole_blocks import reaching


def llada2(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """One call; it decodes whole blocks, and cuts its answer to the length and behind EOS."""
    prompt, block = tuple(case["prompt"]), case["block_length"]
    check_only(case, top_k=(None, 0), top_p=(None, 1.0))
    yield GoldenCase(
        name=name,
        kind=f"generate, {case['rule']}",
        prompt=prompt,
        settings={
            **_rule(case),
            "gen_length": str(reaching(len(prompt), case["gen_length"], block)),
            "block_length": str(block),
            "temperature": str(case["temperature"]),
            "eos_stop": "false",
        },
        wanted=GoldenAnswer(
            tuple(case["expect"]["tokens"]), case["expect"]["forwards"], is_cut=True
        ),
    )


def _rule(case: Mapping[str, Any]) -> dict[str, str]:
    """What is committed and edited, and where the answer ends."""
    threshold, early = case["threshold"], case["eos_early_stop"]
    ends = () if case["eos_id"] < 0 else (case["eos_id"],)
    match case["rule"]:
        case "2.0":
            steps = min(case["steps"], case["gen_length"] // case["minimal_topk"])
            return {
                "unmask": f"quota:steps={steps},threshold={threshold!r}",
                # Without the early stop, a block with EOS still is the last one.
                "stop_after": "token" if early else "block",
                "stop_ids": spelled(ends),
            }
        case "2.1":
            return {
                "unmask": f"editing:threshold={threshold!r},edit={case['editing_threshold']!r},"
                f"each={case['num_to_transfer']},post_steps={case['max_post_steps']}",
                "stop_after": "block",
                "stop_ids": spelled(ends if early else ()),
            }
        case other:
            raise InexpressibleError(f"rule {other!r} of LLaDA2 is not known")
