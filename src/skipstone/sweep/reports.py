"""Report pages of answers that a setting changed: one for each setting and family of prompts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from skipstone.diff.agreement import Question
from skipstone.errors import OutputError
from skipstone.report.report import write_report
from skipstone.report.runs import Token
from skipstone.sweep.causes import Examined
from skipstone.sweep.grid import Setting
from skipstone.sweep.measure import Measurement

FOLDER = "reports"
MOST_BYTES = 500_000_000
"""Of all pages of a sweep."""
_LONGEST_NAME = 60


class Reports:
    """The pages of a sweep. A wrong answer goes before one that is right, then the first prompt."""

    def __init__(
        self, folder: Path, questions: Sequence[Question], settings: Sequence[Setting], most: int
    ) -> None:
        """None yet.

        Args:
            folder: of the sweep.
            questions: its prompts.
            settings: of the sweep, the baseline first.
            most: how many pages there may be.
        """
        self._folder, self._questions, self._most = folder / FOLDER, questions, most
        self._numbers = {setting.name: number for number, setting in enumerate(settings)}
        self._specs = {setting.name: setting.spec for setting in settings}
        self._kept = dict[tuple[str, str], Measurement]()

    @property
    def paths(self) -> Mapping[tuple[int, str], str]:
        """The pages there are, by prompt and setting, as links from the folder of the sweep."""
        return {(m.prompt, m.setting): f"{FOLDER}/{self._name(m)}" for m in self._kept.values()}

    def find(self, measurements: Iterable[Measurement]) -> None:
        """Take over the pages of prompts that were finished before."""
        for m in measurements:
            if not m.same_answer and (self._folder / self._name(m)).is_file():
                self._kept[self._place(m)] = m

    def offer(self, m: Measurement, shown: Examined, token: Token) -> None:
        """Draw the page of an answer, unless a better one of its setting and family has one.

        Raises:
            OutputError: it cannot be written; those before it are kept.
        """
        place, path = self._place(m), self._folder / self._name(m)
        older = self._kept.get(place)
        if _rank(older) < _rank(m) if older is not None else not self._room():
            return
        self._make_folder()
        write_report(
            [shown.baseline, shown.trace],
            path,
            names=[self._specs[name] for name in (next(iter(self._specs)), m.setting)],
            diagnosis=shown.diagnosis,
            token=token,
        )
        self._kept[place] = m
        if older is not None and older.prompt != m.prompt:
            (self._folder / self._name(older)).unlink(missing_ok=True)

    def _room(self) -> bool:
        pages = [self._folder / self._name(m) for m in self._kept.values()]
        return len(pages) < self._most and sum(p.stat().st_size for p in pages) < MOST_BYTES

    def _place(self, m: Measurement) -> tuple[str, str]:
        return m.setting, self._questions[m.prompt].family

    def _name(self, m: Measurement) -> str:
        """Letters, digits and hyphens, whatever a policy is called; none has another's name."""
        words = re.sub(r"[^a-z0-9]+", "-", m.setting.lower()).strip("-")[:_LONGEST_NAME]
        return f"{m.prompt:06}-{self._numbers[m.setting]:03}-{words}.html"

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self._folder} cannot be made ({error.strerror}); give another folder with -o"
            ) from None


def _rank(m: Measurement) -> tuple[bool, int]:
    return m.right is not False, m.prompt
