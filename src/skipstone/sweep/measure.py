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

from skipstone.diff.compare import compare
from skipstone.engine import Engine, Result, Settings
from skipstone.errors import SkipstoneError
from skipstone.models.base import ModelConfig
from skipstone.models.load import Model
from skipstone.record.schema import RunRecord
from skipstone.sweep.grid import BASELINE
from skipstone.sweep.together import DecodedRun, decode_together, try_alone
from skipstone.sweep.units import CauseUnit, DecodeUnit, WorkerSetup

RAISED = "raised"
"""Stands for the cause where there is no answer: a policy raised the error that is the evidence."""

NOT_FINISHED = "not-finished"
"""Stands for the cause of an answer for which time was over before one was proven, or whose policy
raised an error in the experiments."""


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
    over before anything was proven; ``raised`` if none came out, since a policy raised an error;
    empty where the answer is the baseline's, or nobody asked."""
    proof: str = ""
    """How well that is proven."""
    evidence: str = ""
    """What shows it, in a sentence."""
    time_limit: float = 0.0
    """Seconds that the experiments on it might take; 0: none were made."""

    def asks_why(self, seconds: float) -> bool:
        """Whether its cause is to be looked for, again if need be, by experiments of so long."""
        found = self.cause not in ("", NOT_FINISHED)
        return not self.same_answer and not found and self.time_limit < seconds

    @property
    def raised(self) -> bool:
        """Whether there is no answer. It counts as a changed and wrong one that took no work."""
        return self.cause == RAISED


@dataclass(frozen=True)
class Measured:
    """What a worker found in prompts."""

    measurements: list[Measurement]
    """By prompt, and the baseline before the settings; ``right`` is left open."""
    then: tuple[CauseUnit, ...]
    """Changed answers whose cause is to be looked for."""


def measure(model: Model, plan: WorkerSetup, unit: DecodeUnit) -> Measured:
    """Run prompts under the baseline and every setting.

    Raises:
        SkipstoneError: a prompt cannot be decoded under the baseline.
    """
    found, then = list[Measurement](), list[CauseUnit]()
    for (prompt, text), runs in _runs(model, plan, unit):
        of_prompt = [_measurement(model, prompt, setting.name, runs) for setting in plan.all]
        found += of_prompt
        then += unexplained(plan, text, of_prompt)
    return Measured(found, tuple(then))


def unexplained(plan: WorkerSetup, text: str, of_prompt: Sequence[Measurement]) -> list[CauseUnit]:
    """Changed answers of a prompt whose cause is asked for, and was not looked for so long yet.

    Those that part at one forward follow each other: they ask the same about the baseline.
    """
    asked = [m for m in of_prompt if m.asks_why(plan.explain)]
    asked.sort(key=lambda m: m.forward)
    return [CauseUnit(m.prompt, text, m.setting) for m in asked]


def _runs(
    model: Model, plan: WorkerSetup, unit: DecodeUnit
) -> Iterator[tuple[tuple[int, str], Mapping[str, _Run]]]:
    """The runs of each prompt of a unit, by setting."""
    if unit.timed:
        for prompt in unit.prompts:
            turn = plan.in_turn(prompt[0])
            yield prompt, {s.name: _timed(model, s.settings, prompt[1]) for s in turn}
        return
    runs = {
        prompt: {s.name: DecodedRun(prompt[1], s.settings) for s in plan.all}
        for prompt in unit.prompts
    }
    decode_together(model, [run for named in runs.values() for run in named.values()])
    for prompt, named in runs.items():
        yield prompt, {name: _Run(run) for name, run in named.items()}


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
    def record(self) -> RunRecord:
        """Its decisions."""
        return self.run.trace.records[0]


def _timed(model: Model, settings: Settings, prompt: str) -> _Run:
    """Decode once; on a GPU twice: the first run captures graphs, the second is timed."""
    run = try_alone(model, settings, prompt)
    if run.error is not None:
        return _Run(run)
    again = model.network.device.type == "cuda"
    timed = Engine(model, settings).generate(prompt) if again else run.result
    return _Run(run, timed.stats.seconds)


def _measurement(model: Model, prompt: int, name: str, runs: Mapping[str, _Run]) -> Measurement:
    run, base = runs[name], runs[BASELINE]
    if base.run.error is not None:
        raise base.run.error
    if run.run.error is not None:
        return _without_answer(prompt, name, run.run.error)
    result, found = run.run.result, compare(base.record, run.record)
    first, start = found.first, result.prompt_tokens
    return Measurement(
        prompt=prompt,
        setting=name,
        text=result.text,
        tokens=result.tokens,
        right=None,
        same_answer=result.text == base.run.result.text,
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


def _without_answer(prompt: int, name: str, error: SkipstoneError) -> Measurement:
    """Of a run that a policy ended with an error."""
    return Measurement(
        prompt=prompt,
        setting=name,
        text="",
        tokens=(),
        right=None,
        same_answer=False,
        same_tokens=0.0,
        kind="",
        block=-1,
        step=-1,
        position=-1,
        forward=-1,
        forwards=0,
        rows=0,
        generated=0,
        masks_left=0,
        skip_share=0.0,
        flops=0.0,
        seconds=math.nan,
        tokens_per_second=math.nan,
        timed=False,
        cause=RAISED,
        evidence=str(error),
    )


def _scored(record: RunRecord) -> int:
    """Rows whose logits were computed, over all steps."""
    return sum(int((step.candidates.age == 0).sum()) for step in record.steps)


def mark(found: Sequence[Measurement], right: Mapping[str, bool | None]) -> list[Measurement]:
    """The same measurements with their answers judged, by text; no answer is no right one."""
    return [dataclasses.replace(m, right=right[m.text] and not m.raised) for m in found]
