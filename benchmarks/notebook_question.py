"""What a token skip at 0.9999 changes in float32 and bfloat16, with rows aligned and misaligned.

    python -m benchmarks.notebook_question --per-family 3 -o out.json

The notebook compared each row with the row of the same number in the step before, and in the first
cached step of a block that row is another position. The engine cannot do this: the fault bench
plants it. Every answer is held against the exact run (no cache, no skip, one token a step) in the
same dtype and in float32, and against the run that differs from it in the skip alone.
"""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import click
import torch

from faults.engine.instead import Fault
from faults.engine.skip import misaligned_reference
from skipstone import Engine, Model, Result, Settings, load
from skipstone.cli.prompts import read_questions
from skipstone.diagnosis.finding import Proof
from skipstone.diff import compare
from skipstone.diff.agreement import Question
from skipstone.leaderboard.protocol import sampled, short
from skipstone.outputs import write_whole
from skipstone.sweep.run import exact
from skipstone.tracing import Recorder
from skipstone.tracing.diagnose import examined
from skipstone.tracing.experiments.runner import Side

DTYPES = ("float32", "bfloat16")
THRESHOLD = 0.9999
ROWS: dict[str, Fault] = {"aligned": nullcontext, "misaligned": misaligned_reference}


@dataclass(frozen=True)
class Run:
    """A prompt decoded and recorded, and the means to decode it again."""

    result: Result
    side: Side

    def changed(self, other: Run) -> bool:
        """Whether the answers differ."""
        return self.result.text != other.result.text

    def apart(self, other: Run) -> int:
        """At how many new tokens they differ."""
        return len(compare(other.side.record, self.side.record).differing_positions)


@dataclass
class Cell:
    """One combination over all prompts so far."""

    dtype: str
    """Of weights and computation."""
    cache: str
    similarity: str
    """Dtype of the cosine; ``no skip`` where nobody may leave."""
    rows: str
    prompts: int = 0
    right: int = 0
    skip_share: float = 0.0
    """Row-layers skipped, as a share of those that could have been: mean over prompts."""
    changed: int = 0
    """Answers that are not those of the exact run in the same dtype."""
    tokens: int = 0
    """New tokens that are not its."""
    changed_from_float32: int = 0
    """The same against the exact run in float32."""
    tokens_from_float32: int = 0
    changed_by_skip: int = 0
    """Answers that are not those of the run without a skip, everything else the same."""
    changed_by_rows: int = 0
    """Answers that are not those of the run with aligned rows, everything else the same."""
    causes: Counter[str] = field(default_factory=Counter)
    """Of changed answers, against the exact run in the same dtype."""
    causes_from_float32: Counter[str] = field(default_factory=Counter)
    """Of answers that differ from the exact run in float32 alone."""
    against_aligned: Counter[str] = field(default_factory=Counter)
    """What is named between rows aligned and misaligned: of the first prompt and changed ones."""

    @property
    def name(self) -> tuple[str, str, str, str]:
        """The combination."""
        return self.dtype, self.cache, self.similarity, self.rows

    def add(self, question: Question, runs: Runs, seconds: float) -> None:
        """Count one prompt, and look for the cause where its answer changed."""
        run, own, first = runs.of(self), runs.exact(self.dtype), runs.exact("float32")
        changed, from_float32 = run.changed(own), run.changed(first)
        share = run.result.stats.skip_share
        self.skip_share += (share - self.skip_share) / (self.prompts + 1)
        self.right += question.is_right(run.result.text) is True
        self.changed += changed
        self.tokens += run.apart(own)
        self.changed_from_float32 += from_float32
        self.tokens_from_float32 += run.apart(first)
        self.changed_by_skip += run.changed(runs.without_skip(self))
        if seconds and changed:
            self.causes[cause(own, run, seconds)] += 1
        elif seconds and from_float32:
            self.causes_from_float32[cause(first, run, seconds)] += 1
        if self.rows == "misaligned":
            twin = runs.aligned(self)
            self.changed_by_rows += run.changed(twin)
            if seconds and (run.changed(twin) or self.prompts == 0):
                self.against_aligned[cause(twin, run, seconds)] += 1
        self.prompts += 1


class Runs:
    """All runs of one prompt, each decoded when it is first asked for."""

    def __init__(self, models: dict[str, Model], base: Settings, prompt: str) -> None:
        """Nothing is decoded yet."""
        self._models, self._base, self._prompt = models, exact(base), prompt
        self._known = dict[tuple[str, str, str, str], Run]()

    def of(self, cell: Cell) -> Run:
        """The run of a combination."""
        return self._run(cell.name)

    def exact(self, dtype: str) -> Run:
        """No cache and no skip."""
        return self._run((dtype, "none", "no skip", "aligned"))

    def without_skip(self, cell: Cell) -> Run:
        """The same, and nobody may leave."""
        return self._run((cell.dtype, cell.cache, "no skip", "aligned"))

    def aligned(self, cell: Cell) -> Run:
        """The same with rows compared at their own positions."""
        return self._run((cell.dtype, cell.cache, cell.similarity, "aligned"))

    def _run(self, name: tuple[str, str, str, str]) -> Run:
        if name not in self._known:
            self._known[name] = self._decoded(*name)
        return self._known[name]

    def _decoded(self, dtype: str, cache: str, similarity: str, rows: str) -> Run:
        settings, around = self._base.replace(cache=cache), ROWS[rows]
        if similarity != "no skip":
            spec = f"cosine:skip_threshold={THRESHOLD},similarity_dtype={similarity}"
            settings = settings.replace(skip=spec)
        engine, recorder = Engine(self._models[dtype], settings), Recorder()
        with around():
            result = engine.generate(self._prompt, observer=recorder)
        return Run(result, Side(recorder.trace, 0, engine, around))


def cause(a: Run, b: Run, seconds: float) -> str:
    """Why two runs part, as ``skipstone diagnose`` names it, and whether that is proven."""
    found = examined(a.side, b.side, None, time_limit=seconds)
    if found.cause is None:
        return found.verdict if found.finished else "not-finished"
    if found.cause.proof >= Proof.SUFFICIENT:
        return found.verdict
    return f"{found.verdict} (not proven)" if found.finished else "not-finished"


def cells() -> Iterator[Cell]:
    """All combinations that can differ.

    Without a skip no rows are compared, and without a cache every forward has all rows, so that the
    number of a row is its position.
    """
    for dtype, cache in product(DTYPES, ("none", "dual")):
        yield Cell(dtype, cache, "no skip", "aligned")
        for rows, similarity in product(ROWS if cache == "dual" else ("aligned",), DTYPES):
            yield Cell(dtype, cache, similarity, rows)


def chosen(model: Model, per_family: int, gen_length: int) -> Sequence[Question]:
    """The prompts of ``skipstone leaderboard --quick --per-family N``."""
    questions = short(read_questions(Path("pebble"), "--prompts"), model, gen_length)
    ordered, wanted = sampled(questions, per_family)
    return ordered[:wanted]


def facts(found: Sequence[Cell], command: str) -> str:
    """All that is known, as JSON."""
    known = {
        "command": command,
        "machine": f"{platform.processor() or platform.machine()}, one thread",
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
        "cells": [vars(cell) for cell in found],
    }
    return json.dumps(known, indent=1) + "\n"


@click.command()
@click.option("--per-family", default=3, show_default=True)
@click.option("--gen-length", default=16, show_default=True)
@click.option("--block-length", default=32, show_default=True)
@click.option(
    "--time-limit", default=120.0, show_default=True, help="Seconds for one cause; 0: none."
)
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(
    per_family: int, gen_length: int, block_length: int, time_limit: float, out: Path | None
) -> None:
    """Decode every prompt in every combination; print, and write after each prompt if asked."""
    torch.set_num_threads(1)
    models = {dtype: load("pebble", device="cpu", dtype=dtype) for dtype in DTYPES}
    base = Settings(gen_length=gen_length, block_length=block_length)
    questions, found = chosen(models["float32"], per_family, gen_length), list(cells())
    command = (
        f"python -m benchmarks.notebook_question --per-family {per_family} --gen-length "
        f"{gen_length} --block-length {block_length} --time-limit {time_limit:g}"
    )
    for number, question in enumerate(questions, start=1):
        runs = Runs(models, base, question.prompt)
        for cell in found:
            cell.add(question, runs, time_limit)
        print(f"{number} of {len(questions)} prompts", flush=True)
        if out is not None:
            write_whole(out, facts(found, command))
    for cell in found:
        print(
            f"{' '.join(cell.name):42} right {cell.right}/{cell.prompts}  skipped "
            f"{cell.skip_share:.1%}  changed {cell.changed} {dict(cell.causes)}  from float32 "
            f"{cell.changed_from_float32} {dict(cell.causes_from_float32)}  by the skip "
            f"{cell.changed_by_skip}  by the rows {cell.changed_by_rows} "
            f"{dict(cell.against_aligned)}"
        )


if __name__ == "__main__":
    main()
