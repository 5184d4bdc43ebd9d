"""Prompts under the baseline and every setting: what is written down about each run.

What a run takes is only measured of a run that has the machine to itself. So a part of the prompts
is decoded one setting after the other, and timed. All others are decoded together, which is several
times as fast; how long their runs would have taken alone is estimated from the timed ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.diagnosis.finding import Proof
from skipstone.diff.compare import compare
from skipstone.engine import Engine, Result, Settings
from skipstone.models.base import ModelConfig
from skipstone.models.load import Model, load
from skipstone.record import MemoryTrace
from skipstone.record.schema import RunRecord
from skipstone.sweep.grid import BASELINE, Setting
from skipstone.sweep.together import DecodedRun, decode_together
from skipstone.tracing.diagnose import examined
from skipstone.tracing.experiments.runner import Side
from skipstone.tracing.record.recorder import Recorder

NOT_FINISHED = "not-finished"
"""Stands for the cause of an answer for which time was over before one was proven."""


@dataclass(frozen=True)
class Measurement:
    """One prompt under one setting, beside the baseline's run of the same prompt."""

    prompt: int
    """Its place among the prompts, from 0."""
    setting: str
    text: str
    """The answer, up to EOS."""
    tokens: tuple[int, ...]
    """All new ids."""
    right: bool | None
    """None where the right answer is not known."""
    same_answer: bool
    same_tokens: float
    """Share of the new tokens that are the baseline's."""
    kind: str
    """What the first different decision is about; empty if all decisions are the same."""
    block: int
    """Of that decision; -1 if there is none. So are the next three."""
    step: int
    position: int
    """Counted from the first new token."""
    forward: int
    """Of this run, counted from 0."""
    forwards: int
    rows: int
    """Rows that entered layer 1, over all forwards; those of shadows too."""
    generated: int
    """New tokens up to EOS."""
    masks_left: int
    skip_share: float
    """Row-layers skipped, as a share of those that could have been."""
    flops: float
    """Operations of the matrix products; a multiplication and an addition are two."""
    seconds: float
    """Of the run alone; NaN where it was not timed, until ``timing.filled`` estimates it."""
    tokens_per_second: float
    timed: bool = True
    """Whether the run was timed, alone."""
    cause: str = ""
    """Why another answer came out, as ``skipstone diagnose`` names it; ``not-finished`` if time was
    over before anything was proven; empty where the answer is the baseline's, or nobody asked."""
    proof: str = ""
    """How well that is proven."""
    evidence: str = ""
    """What shows it, in a sentence."""


@dataclass(frozen=True)
class Explained:
    """A changed answer whose cause was looked for, with all that a report of it shows."""

    prompt: int
    setting: str
    baseline: MemoryTrace
    trace: MemoryTrace
    diagnosis: Diagnosis


@dataclass(frozen=True)
class Measured:
    """What a worker found in a unit."""

    measurements: list[Measurement]
    """By prompt, and the baseline before the settings."""
    explained: list[Explained]
    """Of changed answers; empty where nobody asked for reports."""


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to know to measure a prompt."""

    model: str
    device: str
    dtype: str
    threads: int
    """CPU threads of all workers together."""
    baseline: Settings
    settings: tuple[Setting, ...]
    explain: float = 0.0
    """Seconds that experiments on a changed answer may take; 0: nobody asks why."""
    reports: bool = False
    """Whether what was explained comes back with its records."""

    @property
    def all(self) -> tuple[Setting, ...]:
        """The baseline first."""
        return (Setting(BASELINE, self.baseline), *self.settings)

    def in_turn(self, prompt: int) -> tuple[Setting, ...]:
        """All settings; each prompt starts with another, so that none is always first or warm."""
        first = prompt % len(self.all)
        return self.all[first:] + self.all[:first]


@dataclass(frozen=True)
class Unit:
    """What one worker runs as a whole: prompts under every setting."""

    prompts: tuple[tuple[int, str], ...]
    """Place among all prompts, and text."""
    timed: bool = True
    """Whether each run has the machine to itself; else all are decoded together."""

    @property
    def first(self) -> int:
        """The first of its prompts, by which it is known."""
        return self.prompts[0][0]


def measure(model: Model, plan: WorkerSetup, unit: Unit) -> Measured:
    """Run prompts under the baseline and every setting.

    Returns:
        The measurements, whose ``right`` is left open, and what was explained.

    Raises:
        SkipstoneError: a prompt cannot be decoded under a setting.
    """
    found = Measured([], [])
    for prompt, runs in _runs(model, plan, unit):
        of_prompt = [_measurement(model, prompt, setting.name, runs) for setting in plan.all]
        changed = [m for m in of_prompt if plan.explain and not m.same_answer]
        if changed:
            trusted = runs[BASELINE].alone(model)
            explained = [_explained(model, m, trusted, runs, plan.explain) for m in changed]
            causes = {one.setting: one.diagnosis for one in explained}
            of_prompt = [_with_cause(m, causes.get(m.setting)) for m in of_prompt]
            found.explained.extend(explained if plan.reports else ())
        found.measurements.extend(of_prompt)
    return found


def _runs(model: Model, plan: WorkerSetup, unit: Unit) -> Iterator[tuple[int, Mapping[str, _Run]]]:
    """The runs of each prompt of a unit, by setting."""
    if unit.timed:
        for prompt, text in unit.prompts:
            yield prompt, {s.name: _alone(model, s.settings, text) for s in plan.in_turn(prompt)}
        return
    runs = {
        prompt: {s.name: DecodedRun(text, s.settings) for s in plan.all}
        for prompt, text in unit.prompts
    }
    decode_together(model, [run for named in runs.values() for run in named.values()])
    for prompt, named in runs.items():
        yield prompt, {name: _Run(run) for name, run in named.items()}


def warm_up(model: Model, plan: WorkerSetup, unit: Unit) -> None:
    """Decode once without measuring: what is allocated on first use belongs to no setting."""
    Engine(model, plan.baseline).generate(unit.prompts[0][1])


@cache
def worker_model(name: str, device: str, dtype: str, threads: int) -> Model:
    """The model of this worker process, loaded once."""
    torch.set_num_threads(threads)
    return load(name, device=device, dtype=dtype)


def flops(config: ModelConfig, result: Result, scored: int) -> float:
    """Operations of the matrix products and of attention in one run.

    Args:
        config: the shape of the model.
        result: of the run.
        scored: rows that logits were computed for, over all steps.
    """
    length = result.prompt_tokens + len(result.tokens)
    attended = 4.0 * length * config.query_width
    each = [2.0 * config.weights_used(layer) + attended for layer in range(config.num_layers)]
    # Rows leave before the last layers, which are alike, as are MLPs that are left out.
    last = config.num_layers - 1
    skipped = sum(step.skipped_row_layers for step in result.stats.steps) * each[last]
    mlps = sum(step.skipped_mlps for step in result.stats.steps)
    skipped += mlps * 2.0 * config.mlp_weights_used(last)
    # Values of a row that are computed to choose by are computed once more where it is chosen.
    renewed = sum(step.values_renewed for step in result.stats.steps)
    skipped -= renewed * 2.0 * config.width * config.kv_width / 2
    # The shadow of a block goes through every layer, beside the rows of its step.
    rows = sum(step.rows + step.shadow_rows for step in result.stats.steps)
    layers = rows * sum(each) - skipped
    return layers + 2.0 * scored * config.vocab_size * config.width


@dataclass(frozen=True)
class _Run:
    """A run that is done."""

    run: DecodedRun
    seconds: float = math.nan
    """Alone; NaN if it was not timed."""

    @property
    def result(self) -> Result:
        """What was decoded."""
        assert self.run.result is not None
        return self.run.result

    @property
    def record(self) -> RunRecord:
        """Its decisions."""
        return self.run.trace.records[0]

    def alone(self, model: Model) -> _Run:
        """The same run, alone: what is proven about it is proven of a run that can be repeated."""
        timed = not math.isnan(self.seconds)
        return self if timed else _alone(model, self.run.settings, self.run.prompt)

    def side(self, model: Model) -> Side:
        """As a side of a diagnosis, which may run it again."""
        return Side(self.run.trace, 0, Engine(model, self.run.settings))


def _alone(model: Model, settings: Settings, prompt: str) -> _Run:
    """Decode once; on a GPU twice: the first run captures graphs, the second is timed."""
    engine, recorder, run = Engine(model, settings), Recorder(), DecodedRun(prompt, settings)
    run.result = engine.generate(prompt, observer=recorder)
    run.trace = recorder.trace
    timed = engine.generate(prompt) if model.network.device.type == "cuda" else run.result
    return _Run(run, timed.stats.seconds)


def _measurement(model: Model, prompt: int, name: str, runs: Mapping[str, _Run]) -> Measurement:
    run, base = runs[name], runs[BASELINE]
    result, found = run.result, compare(base.record, run.record)
    first, start = found.first, result.prompt_tokens
    return Measurement(
        prompt=prompt,
        setting=name,
        text=result.text,
        tokens=result.tokens,
        right=None,
        same_answer=result.text == base.result.text,
        same_tokens=1 - len(found.differing_positions) / len(result.tokens),
        kind=first.kind if first else "",
        block=first.block if first else -1,
        step=first.step if first else -1,
        position=first.position - start if first else -1,
        forward=first.forward_b if first else -1,
        forwards=result.stats.num_forwards,
        rows=sum(step.rows + step.shadow_rows for step in result.stats.steps),
        generated=result.stats.generated,
        masks_left=result.masks_left,
        skip_share=result.stats.skip_share,
        flops=flops(model.config, result, _scored(run.record)),
        seconds=run.seconds,
        tokens_per_second=result.stats.generated / run.seconds,
        timed=not math.isnan(run.seconds),
    )


def _explained(
    model: Model, m: Measurement, trusted: _Run, runs: Mapping[str, _Run], seconds: float
) -> Explained:
    """Look for the cause of an answer that changed."""
    run = runs[m.setting].alone(model)
    found = examined(trusted.side(model), run.side(model), None, time_limit=seconds)
    return Explained(m.prompt, m.setting, trusted.run.trace, run.run.trace, found)


def _with_cause(m: Measurement, found: Diagnosis | None) -> Measurement:
    """The same with the cause of its other answer, and how well it is proven."""
    if found is None:
        return m
    if found.cause is None:
        verdict = found.verdict if found.finished else NOT_FINISHED
        return dataclasses.replace(m, cause=verdict, evidence=str(found.known))
    proof, evidence = found.cause.proof, str(found.cause.evidence)
    if proof < Proof.SUFFICIENT and not found.finished:
        # Another rule may have the proof for which there was no time.
        evidence = f"so far {found.verdict} ({proof}): {evidence}"
        return dataclasses.replace(m, cause=NOT_FINISHED, evidence=evidence)
    return dataclasses.replace(m, cause=found.verdict, proof=str(proof), evidence=evidence)


def _scored(record: RunRecord) -> int:
    """Rows whose logits were computed, over all steps."""
    return sum(int((step.candidates.age == 0).sum()) for step in record.steps)


def mark(found: Sequence[Measurement], right: Mapping[str, bool | None]) -> list[Measurement]:
    """The same measurements with their answers judged, by text."""
    return [dataclasses.replace(m, right=right[m.text]) for m in found]
