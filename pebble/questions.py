"""Writes the held-out questions that go with the embedded model: ``python -m pebble.questions``.

Groups take turns, and within a group its families, so that the first N are a fair sample.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path

from pebble.world import GROUPS, Problem, heldout

PATH = Path(__file__).parent.parent / "src" / "skipstone" / "data" / "questions" / "pebble.jsonl"
PER_GROUP = 150


def questions() -> str:
    """One JSON object a line; an answer is right only if its whole text is, by the judge named."""
    problems = heldout(seed=0, per_group=300)
    by_group = [in_turn([p for p in problems if p.group == group]) for group in GROUPS]
    chosen = chain.from_iterable(zip(*by_group, strict=True))
    lines = [
        json.dumps({"prompt": p.prompt, "answer": p.key, "judge": p.judge, "family": p.family})
        for p, _ in zip(chosen, range(PER_GROUP * len(GROUPS)), strict=False)
    ]
    return "\n".join(lines) + "\n"


def in_turn(problems: list[Problem]) -> Iterator[Problem]:
    """The problems of a group, its families taking turns."""
    families = defaultdict[str, list[Problem]](list)
    for problem in problems:
        families[problem.family].append(problem)
    for row in zip_longest(*families.values()):
        yield from (problem for problem in row if problem is not None)


if __name__ == "__main__":
    PATH.write_text(questions(), encoding="utf-8")
