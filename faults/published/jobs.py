"""What is decoded: prompts, lengths, schedules. Two jobs a loop: a fault has two chances to act."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from faults.published.code import Job
from faults.published.weights import EOS

FIRST = (3, 141, 59, 26, 53, 58, 97, 93, 23)
SECOND = (27, 18, 28, 45, 90, 45, 23)
THIRD = (61, 80, 33, 98, 87, 49, 89, 48, 20, 45, 86)


def fixed(loop: str, **more: object) -> tuple[Job, ...]:
    """A quota for each step: several a step with a remainder, and one a step."""
    first = Job(loop, (FIRST,), gen_length=24, block_length=12, steps=16, seed=0)
    second = Job(loop, (SECOND,), gen_length=24, block_length=8, steps=24, seed=3)
    return (_with(first, more), _with(second, more))


def sure(loop: str, **more: object) -> tuple[Job, ...]:
    """As many as are sure enough."""
    first = Job(loop, (FIRST,), gen_length=24, block_length=12, threshold=0.5, seed=1)
    second = Job(loop, (THIRD,), gen_length=24, block_length=8, steps=24, threshold=0.4, seed=3)
    return (_with(first, more), _with(second, more))


def both(loop: str, **more: object) -> tuple[Job, ...]:
    """One job of either kind."""
    return (fixed(loop, **more)[0], sure(loop, **more)[1])


def padded(loop: str, **more: object) -> tuple[Job, ...]:
    """Two prompts in a batch, the second one shorter and padded on its left."""
    short = (EOS,) * (len(FIRST) - 5) + SECOND[:5]
    visible = ((1,) * len(FIRST), (0,) * (len(FIRST) - 5) + (1,) * 5)
    (job, _) = fixed(loop, **more)
    return (replace(job, prompts=(FIRST, short), visible=visible),)


_FIELDS = ("kv_heads", "ending", "prompts", "block_length", "sharp", "dtype")


def _with(job: Job, more: dict[str, Any]) -> Job:
    """Some fields of a job; what is no field is an option of the loop."""
    fields = {name: more[name] for name in _FIELDS if name in more}
    options = tuple((name, value) for name, value in more.items() if name not in fields)
    return replace(job, **fields, options=options)
