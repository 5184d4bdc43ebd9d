"""The table itself: a line for each setting and family of prompts, from what a sweep measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from skipstone.diagnosis.finding import Proof
from skipstone.diff.binomial import interval
from skipstone.leaderboard.gpu import GpuTime, GpuTimes
from skipstone.leaderboard.protocol import Contender, Protocol
from skipstone.sweep.grid import BASELINE, Setting
from skipstone.sweep.measure import Measurement
from skipstone.sweep.run import Sweep
from skipstone.sweep.summary import Assessment, Interval, Summary

ALL = "all"
"""The family that holds every prompt."""

_CONFIDENCE = 0.95
# A table states rates; it recommends nothing, so that no bound of an assessment is asked for.
_NO_BOUND = 1.0


@dataclass(frozen=True)
class Line:
    """One setting over the prompts of one family."""

    family: str
    entry: Contender
    summary: Summary
    right: Interval | None
    """Share of right answers; None if no answer is known."""
    flops: float
    """Share of the exact run's operations."""
    changed: tuple[Measurement, ...]
    """The answers that are not the exact run's, each with its cause."""
    gpu: GpuTime | None = None
    """What an answer takes on a GPU, at the mean schedule of all prompts; so none of one family."""

    @property
    def causes(self) -> Counter[str]:
        """How many answers each cause changed; one that no experiment proves is marked."""
        return Counter(_named(m) for m in self.changed if m.cause)


@dataclass(frozen=True)
class Unanswered:
    """One setting whose policy raised an error on every prompt of a family: it has no line."""

    family: str
    entry: Contender
    prompts: int


def _named(m: Measurement) -> str:
    unproven = m.proof in (str(Proof.OBSERVED), str(Proof.CONSISTENT))
    return f"{m.cause} (not proven)" if unproven else m.cause


@dataclass(frozen=True)
class Leaderboard:
    """All lines: those over every prompt, then those of each family."""

    lines: tuple[Line, ...]
    protocol: Protocol
    gpu: GpuTimes | None = None
    """Times on a GPU, if they were given."""
    raised: tuple[str, ...] = ()
    """Settings whose policy raised an error, a sentence each."""
    unanswered: tuple[Unanswered, ...] = ()
    """What has no line."""

    @property
    def families(self) -> list[str]:
        """In their order."""
        return list(dict.fromkeys(line.family for line in self.lines))

    def with_gpu(self, times: GpuTimes) -> Leaderboard:
        """The same table with times on a GPU beside the lines over all prompts."""
        lines = (
            replace(line, gpu=times.settings.get(line.summary.setting))
            if line.family == ALL
            else line
            for line in self.lines
        )
        return replace(self, lines=tuple(lines), gpu=times)

    @property
    def without_line(self) -> list[str]:
        """Names of settings whose time on a GPU is known, and which are no line."""
        names = {line.summary.setting for line in self.lines}
        return [name for name in (self.gpu.settings if self.gpu else ()) if name not in names]

    def of(self, family: str) -> list[Line]:
        """The lines of one family; the exact run's is the first."""
        return [line for line in self.lines if line.family == family]


def board(sweep: Sweep, run: Protocol) -> Leaderboard:
    """What a sweep of a protocol measured, as lines."""
    families = dict[str, list[Measurement]]()
    for m in sweep.measurements:
        families.setdefault(sweep.questions[m.prompt].family, []).append(m)
    exact = Contender("exact", "exact", "", Setting(BASELINE, run.baseline))
    entries = (exact, *run.entries)
    groups = [(ALL, sweep.measurements)]
    if set(families) != {""}:
        groups += [(family or "other", found) for family, found in families.items()]
    lines = [line for group in groups for line in _lines(*group, entries)]
    unanswered = [one for group in groups for one in _unanswered(*group, entries)]
    return Leaderboard(tuple(lines), run, raised=sweep.raised, unanswered=tuple(unanswered))


def _unanswered(
    family: str, found: Sequence[Measurement], entries: Sequence[Contender]
) -> list[Unanswered]:
    answered = {m.setting for m in found if not m.raised}
    prompts = len({m.prompt for m in found})
    return [
        Unanswered(family, entry, prompts)
        for entry in entries
        if entry.setting.name not in answered
    ]


def _lines(family: str, found: Sequence[Measurement], entries: Sequence[Contender]) -> list[Line]:
    settings = [entry.setting for entry in entries]
    summaries = Assessment(found, settings, "answer", _NO_BOUND, _CONFIDENCE).summaries
    by_name = {summary.setting: summary for summary in summaries}
    return [
        Line(
            family=family,
            entry=entry,
            summary=s,
            right=_right(s),
            flops=1 - s.flops_saved,
            changed=tuple(m for m in found if m.setting == s.setting and not m.same_answer),
        )
        for entry in entries
        if (s := by_name.get(entry.setting.name)) is not None
    ]


def _right(s: Summary) -> Interval | None:
    if not s.known:
        return None
    return Interval(s.right / s.known, *interval(s.right, s.known, _CONFIDENCE))
