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

import skipstone
from faults import foreign
from faults.cases import SPECIMENS
from faults.engine.instead import Fault
from faults.foreign_loops import FAULTY_LOOPS
from faults.specimen import Specimen
from faults.trial import Trial, examine, record
from skipstone import CosineSkip, Engine, Fixed, Recorder, Settings
from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.outputs import write_whole

PAGE = Path(__file__).parent / "diagnoses.md"
BEGIN, END = "<!-- examples -->", "<!-- end of examples -->"
NUMBERS = range(1, 32)
LOOP = "softmax over positions"
ADDS_UP = "Begin at 16, then subtract 4, subtract 25, subtract 16, multiply by 8. Where do you end?"


def trials(number: int) -> Iterator[Trial]:
    """Trials for which this diagnosis is right; those for which no other is come first."""
    fitting = [specimen for specimen in SPECIMENS if number in specimen.right]
    for specimen in sorted(fitting, key=lambda s: (len(s.right), s.right[0] != number)):
        for alone, prompt, pair in product((False, True), specimen.prompts, specimen.pairs):
            yield Trial(specimen, prompt, pair, alone)


def example(number: int) -> str:
    """What was planted, and what is said about it, as Markdown.

    Raises:
        LookupError: no trial gives this diagnosis, as the cause or beside it.
    """
    if number == 20:
        return _section(
            number,
            "accumulation",
            f"Not planted: `{ADDS_UP}` without skip, and with K = 4.",
            _adds_up(),
        )
    if number == 31:
        # The rules of our engine are known by their settings: this is for loops of other people.
        loop = next(s for s in FAULTY_LOOPS if s.name == LOOP)
        found = foreign.record(foreign.Encounter(loop, loop.jobs[0], "code")).diagnosis()
        return _section(
            number, "commit-rule", f"Planted in a foreign loop: {LOOP}. {_told(loop.fault)}", found
        )
    for trial in trials(number):
        found = examine(trial, record(trial.specimen, trial.prompt, trial.pair))
        causes = [found.cause] if found.cause is not None else found.remarks
        for one in causes:
            if one.number == number:
                planted = f"Planted: {_planted(trial.specimen)}"
                return _section(number, one.rule, planted, found)
    raise LookupError(f"no fault of the bench is diagnosed as {number}")


def _section(number: int, rule: str, planted: str, found: Diagnosis) -> str:
    return "\n".join(
        [f"### {number}: {rule}", "", planted, "", "```text", *found.lines(), "```", ""]
    )


def _adds_up() -> Diagnosis:
    """A skip whose errors add up, found by a sweep: no fault that is planted does it as well."""
    model, settings = skipstone.load("pebble"), Settings(unmask=Fixed(), gen_length=96)
    skips = settings.replace(skip=CosineSkip(skip_layer_k=4, skip_threshold=0.9999))
    engines = Engine(model, settings), Engine(model, skips)
    recorders = Recorder(), Recorder()
    for engine, recorder in zip(engines, recorders, strict=True):
        engine.generate(ADDS_UP, observer=recorder)
    a, b = (recorder.trace for recorder in recorders)
    found = skipstone.diagnose(a, b, engine_a=engines[0], engine_b=engines[1])
    if found.verdict != "accumulation":
        raise LookupError(f"with this model {ADDS_UP!r} is {found.verdict}: look for another one")
    return found


def _planted(specimen: Specimen) -> str:
    """A fault in words."""
    return f"{specimen.name}. {_told(specimen.fault)}".rstrip()


def _told(fault: Fault) -> str:
    """What the code of a fault says of itself; empty if it has none."""
    return "" if fault is nullcontext else inspect.getdoc(fault) or ""


def page() -> str:
    """The page with all examples in their place."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    examples = "\n".join(map(example, NUMBERS))
    return f"{before}{BEGIN}\n\n{examples}\n{END}{after}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_whole(PAGE, page())
