"""What the workers of a sweep have found so far: judged, on disk, and what is left to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from skipstone.diff.agreement import Question
from skipstone.report.runs import Token
from skipstone.sweep.causes import Explained
from skipstone.sweep.measure import Measured, Measurement, mark, unexplained
from skipstone.sweep.reports import Reports
from skipstone.sweep.store import Store
from skipstone.sweep.units import CauseUnit, Unit, WorkerSetup, decode_units
from skipstone.sweep.worker import Found


class Results:
    """A prompt is *begun* when it is decoded, and finished when no cause is left to look for."""

    def __init__(
        self,
        store: Store,
        questions: Sequence[Question],
        plan: WorkerSetup,
        pages: Reports,
        token: Token,
        progress: Callable[[int, int], None],
    ) -> None:
        """Take up what is on disk.

        Args:
            store: keeps the measurements.
            questions: the prompts.
            plan: of the sweep.
            pages: of answers that were explained.
            token: spells an id.
            progress: told after each prompt how many are finished, and of how many.

        Raises:
            ConfigError: a file of the store is damaged.
        """
        self._store, self._questions, self._plan = store, questions, plan
        self._pages, self._token, self._progress = pages, token, progress
        known = {prompt: store.read(prompt) for prompt in range(len(questions)) if prompt in store}
        self._begun = {prompt: rows for prompt, rows in known.items() if self._unexplained(rows)}
        self._finished = len(known) - len(self._begun)
        pages.find(m for rows in known.values() for m in rows if m.cause)
        progress(self._finished, len(questions))

    def open(self, time_every: int) -> Callable[[int], list[Unit]]:
        """What is to be run, by the number of workers: prompts, and causes of those begun."""
        causes = [unit for rows in self._begun.values() for unit in self._unexplained(rows)]
        prompts = [
            (place, question.prompt)
            for place, question in enumerate(self._questions)
            if place not in self._store
        ]
        return lambda workers: [*decode_units(prompts, time_every, workers), *causes]

    def take(self, found: Found) -> None:
        """Judge and keep what a worker found; when this returns, it is on disk.

        Raises:
            OutputError: the disk refuses; what was taken before is kept.
        """
        if isinstance(found, Explained):
            self._take_cause(found)
        else:
            self._take_prompts(found)

    def _take_prompts(self, found: Measured) -> None:
        for prompt, rows in groupby(found.measurements, key=lambda m: m.prompt):
            of_prompt, question = list(rows), self._questions[prompt]
            judged = mark(of_prompt, {m.text: question.is_right(m.text) for m in of_prompt})
            self._store.add(judged)
            if self._unexplained(judged):
                self._begun[prompt] = judged
            else:
                self._finish()

    def _take_cause(self, found: Explained) -> None:
        rows = self._begun[found.prompt]
        place = next(i for i, m in enumerate(rows) if m.setting == found.setting)
        rows[place] = found.told(rows[place])
        if found.shown is not None:
            # Before the cause counts as found, so that no page is missed.
            self._pages.offer(rows[place], found.shown, self._token)
        self._store.add_cause(place, rows[place])
        if not self._unexplained(rows):
            self._store.add(self._begun.pop(found.prompt))
            self._finish()

    def _finish(self) -> None:
        self._finished += 1
        self._progress(self._finished, len(self._questions))

    def _unexplained(self, rows: Sequence[Measurement]) -> list[CauseUnit]:
        return unexplained(self._plan, self._questions[rows[0].prompt].prompt, rows)
