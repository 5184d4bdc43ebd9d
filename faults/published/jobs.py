"""What is decoded: prompts, lengths, schedules. Two jobs a loop: a fault has two chances to act."""

from __future__ import annotations

from typing import Any

from faults.published.code import Job

FIRST = (3, 141, 59, 26, 53, 58, 97, 93, 23)
SECOND = (27, 18, 28, 45, 90, 45, 23)
THIRD = (61, 80, 33, 98, 87, 49, 89, 48, 20, 45, 86)


def fixed(loop: str, **more: object) -> tuple[Job, ...]:
    """A quota for each step: several a step with a remainder, and one a step."""
    return (
        Job(loop, (FIRST,), gen_length=24, block_length=12, steps=16, seed=0, **_options(more)),
        Job(loop, (SECOND,), gen_length=24, block_length=8, steps=24, seed=3, **_options(more)),
    )


def sure(loop: str, **more: object) -> tuple[Job, ...]:
    """As many as are sure enough."""
    return (
        Job(
            loop, (FIRST,), gen_length=24, block_length=12, threshold=0.5, seed=1, **_options(more)
        ),
        Job(
            loop,
            (THIRD,),
            gen_length=24,
            block_length=8,
            steps=24,
            threshold=0.4,
            seed=3,
            **_options(more),
        ),
    )


def both(loop: str, **more: object) -> tuple[Job, ...]:
    """One job of either kind."""
    return (fixed(loop, **more)[0], sure(loop, **more)[1])


def _options(more: dict[str, Any]) -> dict[str, Any]:
    """Fields of a job, and what is left as options of the loop."""
    known = {
        name: more[name]
        for name in ("kv_heads", "ending", "prompts", "block_length", "sharp")
        if name in more
    }
    others = tuple((name, value) for name, value in more.items() if name not in known)
    return known | ({"options": others} if others else {})
