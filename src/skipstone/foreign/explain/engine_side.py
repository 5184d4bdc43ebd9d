"""A side that is an engine of ours, with one prompt."""

from __future__ import annotations

import time
from collections.abc import Sequence

from skipstone.engine import Engine, Result
from skipstone.engine.prompts import Prompt
from skipstone.foreign.explain.evidence import Cost, Depth, Observation
from skipstone.record import Trace
from skipstone.tracing.record.recorder import Recorder


class EngineSide:
    """Runs an engine; what is wanted beside its record, experiments run again by themselves."""

    def __init__(self, name: str, engine: Engine, prompt: Prompt, depth: Depth) -> None:
        """Take the engine; nothing is run yet."""
        self._name, self._engine, self._prompt, self._depth = name, engine, prompt, depth

    def observed(self) -> Observation:
        """Run it twice plain, and once recorded.

        Raises:
            SkipstoneError: the prompt does not fit, or the run fails.
        """
        first, _ = self._timed(None)
        plain, plain_s = self._timed(None)
        recorder = Recorder(self._depth.level, window=self._depth.window)
        recorded, recorded_s = self._timed(recorder)
        notes = list[str]()
        if first.tokens != plain.tokens:
            notes.append(f"{self._name} is not the same twice: it returns other tokens")
        elif plain.tokens != recorded.tokens:
            notes.append(f"recording changes {self._name}: it returns other tokens")
        notes += [f"{self._name}: {note}" for note in recorded.notes]
        return Observation(
            traces=[recorder.trace],
            notes=tuple(notes),
            cost=Cost(plain_s, recorded_s, runs=3),
            engine=self._engine,
        )

    def recorded_at(self, depth: Depth) -> Sequence[Trace]:
        """Run it once more, with tensors: code that is not ours has none but its own to show."""
        recorder = Recorder(depth.level, window=depth.window)
        self._timed(recorder)
        return [recorder.trace]

    def _timed(self, recorder: Recorder | None) -> tuple[Result, float]:
        began = time.perf_counter()
        result = self._engine.generate(self._prompt, observer=recorder)
        return result, time.perf_counter() - began
