"""Writes one example of every diagnosis into docs/diagnoses.md.

``python -m docs.examples`` plants a fault of the fault bench for each number, diagnoses it with
both runs at hand, and shows what ``skipstone diagnose`` prints. It takes some minutes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import torch

from faults.cases import SPECIMENS
from faults.specimen import Specimen
from faults.trial import Trial, examine, record

PAGE = Path(__file__).parent / "diagnoses.md"
BEGIN, END = "<!-- examples -->", "<!-- end of examples -->"
NUMBERS = range(1, 31)


def trials(number: int) -> Iterator[Trial]:
    """Trials for which this diagnosis is right; those for which no other is come first."""
    fitting = [specimen for specimen in SPECIMENS if number in specimen.right]
    for specimen in sorted(fitting, key=lambda s: (len(s.right), s.right[0] != number)):
        for alone, prompt, pair in product((False, True), specimen.prompts, specimen.pairs):
            yield Trial(specimen, prompt, pair, alone)


def example(number: int) -> str:
    """What was planted, and what is said about it, as Markdown."""
    for trial in trials(number):
        runs = record(trial.specimen, trial.prompt, trial.pair)
        found = examine(trial, runs)
        if found.cause is None or found.cause.number != number:
            continue
        return "\n".join(
            [
                f"### {number}: {found.cause.rule}",
                "",
                f"Planted: {_planted(trial.specimen)}",
                "",
                "```text",
                *found.lines(),
                "```",
                "",
            ]
        )
    return f"### {number}\n\nNo fault of the bench acts so that this is the first cause.\n"


def _planted(specimen: Specimen) -> str:
    """A fault in words."""
    about = "" if specimen.fault is nullcontext else inspect.getdoc(specimen.fault) or ""
    return f"{specimen.name}. {about}".rstrip()


def page() -> str:
    """The page with all examples in their place."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    examples = "\n".join(map(example, NUMBERS))
    return f"{before}{BEGIN}\n\n{examples}\n{END}{after}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    PAGE.write_text(page(), encoding="utf-8")
