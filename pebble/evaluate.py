"""Counts right answers on held-out problems: ``python -m pebble.evaluate``.

Each run spec is decoded by the engine; an answer is right only if its whole text is. With
``--outside FILE`` it also counts how many lines of a file are refused, as they should be.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pebble.world import GROUPS, Problem, heldout
from pebble.world.outside import ANSWER
from skipstone import Engine, Model, Settings, load
from skipstone.engine import parse_settings, parse_spec

# One token a step without a cache is the exact run that the others are measured against.
SPECS = (
    "cache=none unmask=fixed",
    "cache=dual unmask=threshold:value=0.9",
)


@dataclass(frozen=True)
class Report:
    """How one run spec did."""

    spec: str
    right: dict[str, float]
    """Share of right answers: by group, by family, and over all."""
    refused: float
    """Share of the prompts within the world that are answered with "I do not know that."."""
    prompts: int
    forwards: float
    """Mean number of forwards for one prompt."""
    tokens: float
    """Mean number of generated tokens."""
    skip_share: float
    seconds: float


def evaluate(model: Model, spec: str, problems: Sequence[Problem], batch: int) -> Report:
    """Decode all problems under one run spec."""
    engine = Engine(model, parse_settings(parse_spec(spec), Settings()))
    # Neighbours of similar length waste less on padding, and each answer is the same in any batch.
    order = sorted(problems, key=lambda problem: len(problem.prompt))
    started = time.monotonic()
    results = engine.generate_batch([p.prompt for p in order], batch_size=batch)
    own = [r.text for p, r in zip(order, results, strict=True) if p.answer != ANSWER]
    marks = defaultdict[str, list[bool]](list)
    for problem, result in zip(order, results, strict=True):
        right = problem.fits(result.text)
        for name in ("all", problem.group, f"{problem.group}/{problem.family}"):
            marks[name].append(right)
    return Report(
        spec=spec,
        right={name: sum(hits) / len(hits) for name, hits in sorted(marks.items())},
        refused=own.count(ANSWER) / max(1, len(own)),
        prompts=len(order),
        forwards=sum(r.stats.num_forwards for r in results) / len(results),
        tokens=sum(r.stats.generated for r in results) / len(results),
        skip_share=sum(r.stats.skip_share for r in results) / len(results),
        seconds=time.monotonic() - started,
    )


def answers(model: Model, spec: str, prompts: Sequence[str], batch: int) -> list[str]:
    """What a run spec makes of prompts whose answers nobody knows."""
    engine = Engine(model, parse_settings(parse_spec(spec), Settings()))
    return [result.text for result in engine.generate_batch(prompts, batch_size=batch)]


def show(report: Report) -> str:
    """One line for a report."""
    groups = "  ".join(f"{group} {report.right[group]:.1%}" for group in GROUPS)
    return (
        f"{report.spec}\n    all {report.right['all']:.2%}  {groups}  "
        f"own refused {report.refused:.2%}  "
        f"{report.forwards:.1f} forwards  {report.seconds:.0f} s"
    )


def main() -> None:
    """Read the options, evaluate, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pebble", help="pebble or a directory")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--per-group", type=int, default=300, help="held-out problems a group")
    parser.add_argument("--seed", type=int, default=0, help="of the held-out problems")
    parser.add_argument("--batch", type=int, default=16, help="problems decoded at once")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--outside", type=Path, help="file of questions to refuse, one a line")
    parser.add_argument("specs", nargs="*", default=SPECS, help="run specs")
    options = parser.parse_args()
    model = load(options.model, device=options.device, dtype=options.dtype)
    problems = heldout(options.seed, options.per_group)
    reports = list[Report]()
    for spec in options.specs:
        reports.append(evaluate(model, spec, problems, options.batch))
        print(show(reports[-1]), flush=True)
        if options.outside:
            lines = options.outside.read_text(encoding="utf-8").splitlines()
            said = answers(model, spec, [line for line in lines if line.strip()], options.batch)
            print(f"    outside refused {said.count(ANSWER)} of {len(said)}", flush=True)
    if options.json:
        text = json.dumps([vars(report) for report in reports], indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
