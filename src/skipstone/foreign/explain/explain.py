"""``skipstone.explain``: a good run, a bad run, and why they part, in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from skipstone.checks import checked
from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.engine import Engine, Settings
from skipstone.engine.prompts import Prompt
from skipstone.errors import ConfigError
from skipstone.foreign.attach.wanted import AttachLevel
from skipstone.foreign.explain.evidence import Depth, Observation, RunSource
from skipstone.foreign.explain.explanation import Explanation
from skipstone.foreign.explain.pairing import RunPair, depth_for, paired
from skipstone.foreign.explain.progress import tell
from skipstone.foreign.explain.sides import Sides
from skipstone.kinds import of_kind
from skipstone.models.load import Model
from skipstone.record import MemoryTrace
from skipstone.record.recorded import Given, single, stands_for_run
from skipstone.tracing.diagnose import examined
from skipstone.tracing.experiments.runner import Side
from skipstone.tracing.record.recorder import Window

RunLike: TypeAlias = "Callable[..., object] | Engine | Settings | Given"
"""One side: a function, an engine or its settings, or a run that was recorded."""


def explain(
    model: nn.Module | Model | Engine | Given | None = None,
    good: RunLike | None = None,
    bad: RunLike | None = None,
    *,
    prompt: Prompt | None = None,
    mask_id: int | None = None,
    eos_id: int | None = None,
    layers: str | None = None,
    level: AttachLevel | None = None,
    window: Window | None = None,
    stated: Mapping[str, object] | None = None,
    prompt_length: int | None = None,
    sample: int | None = None,
    sanitize: bool = True,
    seed: int = 0,
    reference: Model | None = None,
    time_limit: float = 120.0,
) -> Explanation:
    """Run a good and a bad decode, both recorded, and say why they part.

    Each side is a function that takes nothing, or the model: it is run plain, which gives the
    time; recorded by ``attach``; and, if the two part, once more with its tensors. The bad one is
    sanitized in a run of its own. Every run begins alike: with the same seeds, and with the model,
    the prompt and random generators as they were; all of that is put back at the end. What a
    function prints is shown once. What it raises is part of the answer.

    A side may also be a run that was recorded (a recorder, what ``attach`` gave, a trace, the path
    of one); where both are, ``model`` may be left out: ``explain(good, bad)``.

    For a model of ours, sides are engines, settings, or settings as text, and ``prompt`` is what
    they decode: ``explain(load("pebble"), "cache=none", "cache=dual", prompt="...")``.

    Args:
        model: what the functions call; or a model of ours; or an engine, whose settings hold where
            a text says nothing.
        good: the baseline.
        bad: the run to explain.
        prompt: for engines.
        mask_id: as in ``attach``; None takes the model's.
        eos_id: likewise.
        layers: likewise; None finds the list of layers.
        level: tensors to record: ``decisions``, ``sketches``, ``window`` or ``full``. None records
            decisions first, then all tensors, or those of the steps before the runs part, as they
            fit into memory.
        window: first and last (block, step) of the level ``window``.
        stated: settings that the bad run is meant to have.
        prompt_length: where new tokens begin; None takes the first mask.
        sample: which prompt of a batch; None takes the first whose runs part.
        sanitize: follow the position of every row of the bad run.
        seed: of every run.
        reference: a model of ours with the same weights, which makes experiments possible.
        time_limit: seconds for experiments.

    Raises:
        ConfigError: a side is none of these, needs other arguments, or never calls the model.
        TraceError: a trace is missing or damaged.

    Example:
        ``print(skipstone.explain(model, lambda: generate(model, x), lambda: fast(model, x)))``
    """
    began = time.perf_counter()
    if bad is None and good is not None and stands_for_run(model):
        model, good, bad = None, model, good  # pyrefly: ignore[bad-assignment]
    _check_there(good=good, bad=bad)
    _check(level, stated, sample, reference, sanitize=sanitize, seed=seed, time_limit=time_limit)
    depth = Depth(level or "decisions", window)
    sides = Sides(
        model, prompt, depth, mask_id, eos_id, layers, prompt_length, sanitize=sanitize, seed=seed
    )
    first, second = sides.good(good), sides.bad(bad, stated or {})
    found = _Found(first.observed(), second.observed())
    if level is None:
        found = _deeper(found, first, second, sample)
    pair = found.pair(sample)
    tell("held against each other")
    diagnosis = examined(
        found.good_side(pair), found.bad_side(pair), reference, time_limit=time_limit
    )
    return found.explained(pair, diagnosis, began)


def _check_there(**sides: object) -> None:
    """Refuse a side that was not given."""
    for name, side in sides.items():
        if side is None:
            raise ConfigError(f"{name} is missing; give a function, an engine, or a recorded run")


def _check(
    level: object,
    stated: object,
    sample: object,
    reference: object,
    *,
    sanitize: object,
    seed: object,
    time_limit: object,
) -> None:
    """Refuse arguments of another kind."""
    if level is not None:
        checked("level", level, AttachLevel)
    checked("seed", seed, int)
    checked("time_limit", time_limit, float)
    of_kind("reference", reference, Model, "what skipstone.load gave", optional=True)
    checked("sanitize", sanitize, bool)
    checked("sample", sample, int | None)
    of_kind("stated", stated, Mapping, "a dictionary of settings by their names", optional=True)


@dataclass(frozen=True, eq=False)
class _Found:
    """Both sides."""

    good: Observation
    bad: Observation

    def pair(self, sample: int | None) -> RunPair:
        """The runs that are held against each other; the bad one has all events."""
        pair = paired(self.good.traces, self.bad.traces, sample)
        trace = self.bad.traces[pair.run_b]
        known = {(e.kind, e.source) for e in trace.records[pair.sample].events}
        for event in self.bad.events:
            if isinstance(trace, MemoryTrace) and (event.kind, event.source) not in known:
                trace.event(pair.sample, event)
        return pair

    def good_side(self, pair: RunPair) -> Side:
        """The good run, for experiments."""
        return _side(self.good, pair.run_a, pair.sample)

    def bad_side(self, pair: RunPair) -> Side:
        """The bad run, for experiments."""
        return _side(self.bad, pair.run_b, pair.sample)

    def explained(self, pair: RunPair, diagnosis: Diagnosis, began: float) -> Explanation:
        """The answer, with tokens by their text where the model is ours."""
        engine = self.good.engine or self.bad.engine
        if engine is not None:
            diagnosis = diagnosis.naming(engine.model.text.token)
        return Explanation(
            diagnosis=diagnosis,
            comparison=pair.comparison,
            good=self.good.traces[pair.run_a],
            bad=self.bad.traces[pair.run_b],
            sample=pair.sample,
            notes=(*self.good.notes, *self.bad.notes, *self.counts(pair)),
            sides=(self.good, self.bad),
            seconds=time.perf_counter() - began,
        )

    def counts(self, pair: RunPair) -> list[str]:
        """Which runs were taken, where a side made several."""
        numbers = len(self.good.traces), len(self.bad.traces)
        if numbers == (1, 1):
            return []
        return [
            f"good decodes {numbers[0]} times and bad {numbers[1]}: run {pair.run_a + 1} of good "
            f"is held against run {pair.run_b + 1} of bad"
        ]


def _deeper(found: _Found, first: RunSource, second: RunSource, sample: int | None) -> _Found:
    """With tensors, where the runs part."""
    pair = paired(found.good.traces, found.bad.traces, sample)
    a, b = found.good.traces[pair.run_a], found.bad.traces[pair.run_b]
    depth = depth_for(a.records[pair.sample], b.records[pair.sample], pair.comparison)
    if depth is None:
        return found
    return _Found(
        found.good.deeper(first.recorded_at(depth)), found.bad.deeper(second.recorded_at(depth))
    )


def _side(side: Observation, run: int, sample: int) -> Side:
    repeats = [traces[run] for traces in side.repeats if run < len(traces)]
    alone = [single(t, sample) for t in repeats if sample < len(t.records)]
    return Side(side.traces[run], sample, side.engine, repeats=tuple(alone))
