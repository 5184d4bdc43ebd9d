"""One prompt under the baseline and every setting: what is written down about each run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from skipstone.diff.compare import compare
from skipstone.engine import Engine, Result, Settings
from skipstone.models.base import ModelConfig
from skipstone.models.load import Model, load
from skipstone.record import MemoryTrace
from skipstone.record.schema import RunRecord
from skipstone.sweep.grid import BASELINE, Setting
from skipstone.tracing.diagnose import examined
from skipstone.tracing.experiments.runner import Side
from skipstone.tracing.record.recorder import Recorder


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
    """Rows that entered layer 1, over all forwards."""
    generated: int
    """New tokens up to EOS."""
    masks_left: int
    skip_share: float
    """Row-layers skipped, as a share of those that could have been."""
    flops: float
    """Operations of the matrix products; a multiplication and an addition are two."""
    seconds: float
    tokens_per_second: float
    cause: str = ""
    """Why another answer came out, as ``skipstone diagnose`` names it; empty where the answer is
    the baseline's, or nobody asked."""
    proof: str = ""
    """How well that is proven."""
    evidence: str = ""
    """What shows it, in a sentence."""


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
    """What is run, and written down, as a whole: one prompt under every setting."""

    prompt: int
    text: str


def measure(model: Model, plan: WorkerSetup, unit: Unit) -> list[Measurement]:
    """Run one prompt under the baseline and every setting.

    Returns:
        The baseline's measurement, then those of the settings; ``right`` is left open.

    Raises:
        SkipstoneError: the prompt cannot be decoded under a setting.
    """
    runs = {s.name: _run(model, s.settings, unit.text) for s in plan.in_turn(unit.prompt)}
    found = [_measurement(model, unit, setting, runs) for setting in plan.all]
    if not plan.explain:
        return found
    return [m if m.same_answer else _explained(m, runs, plan.explain) for m in found]


def warm_up(model: Model, plan: WorkerSetup, unit: Unit) -> None:
    """Decode once without measuring: what is allocated on first use belongs to no setting."""
    Engine(model, plan.baseline).generate(unit.text)


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
    # Rows leave before the last layers, which are alike.
    skipped = sum(step.skipped_row_layers for step in result.stats.steps) * each[-1]
    layers = sum(step.rows for step in result.stats.steps) * sum(each) - skipped
    return layers + 2.0 * scored * config.vocab_size * config.width


@dataclass(frozen=True)
class _Run:
    engine: Engine
    result: Result
    trace: MemoryTrace
    seconds: float

    @property
    def record(self) -> RunRecord:
        """Its decisions."""
        return self.trace.records[0]

    @property
    def side(self) -> Side:
        """As a side of a diagnosis, which may run it again."""
        return Side(self.trace, 0, self.engine)


def _run(model: Model, settings: Settings, prompt: str) -> _Run:
    """Decode once; on a GPU twice: the first run captures graphs, the second is timed."""
    engine, recorder = Engine(model, settings), Recorder()
    result = engine.generate(prompt, observer=recorder)
    timed = engine.generate(prompt) if model.network.device.type == "cuda" else result
    return _Run(engine, result, recorder.trace, timed.stats.seconds)


def _measurement(
    model: Model, unit: Unit, setting: Setting, runs: Mapping[str, _Run]
) -> Measurement:
    run, base = runs[setting.name], runs[BASELINE]
    result, found = run.result, compare(base.record, run.record)
    first, start = found.first, result.prompt_tokens
    return Measurement(
        prompt=unit.prompt,
        setting=setting.name,
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
        rows=sum(step.rows for step in result.stats.steps),
        generated=result.stats.generated,
        masks_left=result.masks_left,
        skip_share=result.stats.skip_share,
        flops=flops(model.config, result, _scored(run.record)),
        seconds=run.seconds,
        tokens_per_second=result.stats.generated / run.seconds,
    )


def _explained(m: Measurement, runs: Mapping[str, _Run], seconds: float) -> Measurement:
    """The same with the cause of its other answer, and how well it is proven."""
    found = examined(runs[BASELINE].side, runs[m.setting].side, None, time_limit=seconds)
    if found.cause is None:
        verdict = found.verdict if found.finished else "not-finished"
        return dataclasses.replace(m, cause=verdict, evidence=str(found.known))
    proof, evidence = str(found.cause.proof), str(found.cause.evidence)
    return dataclasses.replace(m, cause=found.verdict, proof=proof, evidence=evidence)


def _scored(record: RunRecord) -> int:
    """Rows whose logits were computed, over all steps."""
    return sum(int((step.candidates.age == 0).sum()) for step in record.steps)


def mark(found: Sequence[Measurement], right: Mapping[str, bool | None]) -> list[Measurement]:
    """The same measurements with their answers judged, by text."""
    return [dataclasses.replace(m, right=right[m.text]) for m in found]
