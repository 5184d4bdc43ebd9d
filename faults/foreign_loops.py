"""Loops of other people that commit by another rule, in all styles, and the right diagnosis."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from faults import loop_faults as loops
from faults.engine.instead import Fault
from faults.foreign import JOBS, PARALLEL, Stranger
from faults.foreign_cases import LOOPS, PARTED, with_its_cache, without_cache
from faults.foreign_code import STYLES, Job, Style
from faults.truth import Truth, commits_otherwise

ORDER, REGION, NUMBER, TOKENS, RULE = 10, 16, 24, 22, 31
"""Numbers of the diagnoses: what the order goes by, the region, how many, drawn tokens, others."""

SCHEDULED = JOBS[:3]
SATURATED = tuple(replace(job, threshold=1.0) for job in PARALLEL)


def _of_every_style(style: Style) -> tuple[Stranger, ...]:
    def wrong(
        name: str, right: int, fault: Fault = nullcontext, jobs: tuple[Job, ...] = JOBS
    ) -> Stranger:
        return replace(with_its_cache(style, name, (right,), PARTED), fault=fault, jobs=jobs)

    loop = LOOPS[style]
    return (
        wrong("softmax over positions", RULE, loops.over_positions),
        wrong("order by margin", ORDER, loops.by_margin),
        wrong("order by entropy", ORDER, loops.by_entropy),
        # What a threshold does with numbers that are drawn at random, no trace can show.
        wrong("random order", ORDER, loops.by_chance, SCHEDULED),
        wrong("left to right", ORDER, loops.from_the_left),
        wrong("least probable first", ORDER, loops.least_probable, SCHEDULED),
        replace(wrong("EOS suppressed", RULE, loops.eos_suppressed), model="ending"),
        wrong("EOS raised", RULE, loops.eos_raised, PARALLEL),
        wrong("logits shifted by one", RULE, loops.shifted),
        wrong("temperature not zero", TOKENS, loops.warm),
        wrong("threshold changed", RULE, loops.threshold_of(0.3), PARALLEL),
        replace(
            wrong("threshold passed, not reached", RULE, loops.strictly_above, SATURATED),
            model="certain",
        ),
        wrong("one too many a step", NUMBER, loops.one_too_many, SCHEDULED),
        replace(
            wrong("remainder last", NUMBER, jobs=SCHEDULED),
            loop=loops.in_three_steps(loop, remainder_last=True),
            correct=loops.in_three_steps(loop, remainder_last=False),
            against=("code",),
        ),
        replace(
            without_cache(style, "commits beyond the block", (REGION,), Truth(commits_otherwise)),
            loop=loops.beyond_the_block,
        ),
    )


FAULTY_LOOPS = tuple(s for style in STYLES for s in _of_every_style(style))
