"""DPad (Sitaoooo/DPad 44c7b5b) without a cache, keeping the first masks right of a block.

``generate`` of ``llada/generate_dropout.py`` with ``dropout='uniform'`` and as many tokens
preserved as its window has: then nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from skipstone.testing.golden.case import GoldenCase
from skipstone.testing.golden.published.stepwise import stepwise


def suffix_window(name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """A window that moves with the block; an EOS in a finished block may end the run."""
    params = case["params"]
    settings = {"cache": "none", "suffix_window": str(params["window"]), **_rule(case)}
    if params["early_termination"]:
        settings |= {"eos_stop": "true", "stop_after": "block"}
    found = stepwise(name, "suffix_window_dpad", case, settings)
    # Where an EOS ended the run, the tokens behind its block were filled in, not decoded.
    decided = {at for step in case["steps"] for at, _ in step}
    tokens = tuple(token for at, token in enumerate(case["tokens"]) if at in decided)
    yield replace(found, wanted=replace(found.wanted, tokens=tokens))


def _rule(case: Mapping[str, Any]) -> dict[str, str]:
    params = case["params"]
    if params["threshold"] is not None:
        return {"unmask": f"threshold:value={params['threshold']!r}"}
    return {"unmask": "fixed", "steps": str(case["gen_length"] // params["tokens_per_step"])}
