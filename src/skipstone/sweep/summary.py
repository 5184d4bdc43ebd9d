"""What a sweep proves: a line for each setting, and the fastest one that is safe.

All comparisons are paired: each setting is held against the baseline's run of the same prompt, made
by the same worker within the same minutes. Prompts are taken as independent draws.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from skipstone.diff.agreement import paired_difference
from skipstone.diff.binomial import interval
from skipstone.sweep.grid import BASELINE, Setting
from skipstone.sweep.measure import Measurement

SweepLevel = Literal["answer", "token"]
"""What has to be the same: the text up to EOS, or every new token."""

_RESAMPLES = 2000
# A setting that is this much faster leads; less is noise of the machine.
_LEAD = 1.02


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """One setting over all prompts."""

    setting: str
    spec: str
    prompts: int
    raised: int
    """Of these, without an answer, since a policy raised an error; they count as changed and wrong,
    and work and times are those of the others."""
    known: int
    """Prompts with a known answer."""
    right: int
    """Of these, answered right."""
    right_change: Interval | None
    """Share of right answers beyond the baseline's; None if no answer is known."""
    differing: int
    """Prompts that disagree with the baseline at the level that was asked for."""
    disagreement: Interval
    """Share of the prompts that do; exact (Clopper-Pearson)."""
    proven: float
    """The share is below this for all settings of the sweep together, with the confidence."""
    same_answers: Interval
    """Share of the prompts with the baseline's answer."""
    same_tokens: Interval
    """Mean share of new tokens that are the baseline's."""
    diverged: int
    """Prompts in which any decision differs."""
    first_forward: float | None
    """Median forward of the first different decision, counted from 0, where there is one."""
    forwards: float
    """Mean number of forwards (NFE)."""
    rows: float
    """Mean number of rows that entered layer 1."""
    skip_share: float
    """Mean share of the row-layers that could be skipped and were."""
    flops_saved: float
    """Share of the baseline's operations that were not made."""
    seconds: float
    """Median of a prompt."""
    tokens_per_second: float
    """Median over prompts."""
    speedup: Interval
    """How many times faster than the baseline: median and quartiles over prompts."""


@dataclass(frozen=True)
class Recommendation:
    """The fastest setting that is proven safe, or that there is none."""

    bound: float
    confidence: float
    setting: str | None
    spec: str | None
    reason: str

    def as_json(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Assessment:
    """Measurements held against a bound.

    Whoever picks the best of many settings picks lucky ones too. So the doubt is shared out among
    the settings (Bonferroni): the chance that any of them is called safe and is not, stays below
    1 - confidence.
    """

    measurements: Sequence[Measurement]
    settings: Sequence[Setting]
    level: SweepLevel
    bound: float
    confidence: float = 0.95

    @cached_property
    def summaries(self) -> list[Summary]:
        """Of the baseline, then of each setting that answered any prompt."""
        by_name = dict[str, list[Measurement]]()
        for m in self.measurements:
            by_name.setdefault(m.setting, []).append(m)
        base = by_name[BASELINE]
        specs = {setting.name: setting.spec for setting in self.settings}
        return [
            self._summary(by_name[name], base, spec)
            for name, spec in specs.items()
            if not all(m.raised for m in by_name[name])
        ]

    @property
    def candidates(self) -> int:
        """Settings that could be chosen."""
        return len(self.settings) - 1

    @cached_property
    def recommendation(self) -> Recommendation:
        """The fastest of the settings whose disagreement is proven to be below the bound.

        Of those that are as fast, the one that is proven best; then the one that is shortest to
        write, because it does not switch on what does nothing.
        """
        others = self.summaries[1:]
        safe = [s for s in others if s.proven < self.bound]
        faster = [s for s in safe if s.speedup.value > 1]
        fastest = max((s.speedup.value for s in faster), default=0.0)
        level = [s for s in faster if s.speedup.value >= fastest / _LEAD]
        best = min(level, key=lambda s: (s.proven, len(s.spec)), default=None)
        return Recommendation(
            bound=self.bound,
            confidence=self.confidence,
            setting=best.setting if best else None,
            spec=best.spec if best else None,
            reason=self._why(best, safe),
        )

    def _why(self, best: Summary | None, safe: Sequence[Summary]) -> str:
        sure = f"with {_percent(self.confidence)} confidence"
        if best is not None:
            return (
                f"{best.speedup.value:.2f} times as fast as the baseline; its {self.level} differs "
                f"for less than {_percent(best.proven)} of prompts {sure}, after choosing among "
                f"{self.candidates}"
            )
        if safe:
            return (
                f"{len(safe)} settings stay below {_percent(self.bound)} {sure}, and none of them "
                f"is faster than the baseline"
            )
        total, needed = self.summaries[0].prompts, self.needed
        least = 1 - (self._doubt) ** (1 / total)
        if least >= self.bound:
            return (
                f"{total} prompts prove {_percent(least)} at best; {_percent(self.bound)} {sure} "
                f"takes {needed} prompts on which nothing differs"
            )
        return f"every setting may differ for {_percent(self.bound)} of prompts or more, {sure}"

    @property
    def needed(self) -> int:
        """Prompts without a difference that prove the bound."""
        return math.ceil(math.log(self._doubt) / math.log1p(-self.bound))

    @property
    def _doubt(self) -> float:
        """What each setting may take of the doubt."""
        return (1 - self.confidence) / max(1, self.candidates)

    def _summary(
        self, found: Sequence[Measurement], base: Sequence[Measurement], spec: str
    ) -> Summary:
        total = len(found)
        differing = sum(_differs(m, self.level) for m in found)
        forwards = [m.forward for m in found if m.kind]
        answered = [(m, b) for m, b in zip(found, base, strict=True) if not m.raised]
        runs, exact = zip(*answered, strict=True)
        speedups = [b.seconds / m.seconds for m, b in answered]
        return Summary(
            setting=found[0].setting,
            spec=spec,
            prompts=total,
            raised=total - len(answered),
            known=sum(m.right is not None for m in found),
            right=sum(m.right is True for m in found),
            right_change=self._right_change(found, base),
            differing=differing,
            disagreement=self._rate(differing, total),
            # Both ends of an interval are wrong with half the doubt; only the upper one counts.
            proven=interval(differing, total, 1 - 2 * self._doubt)[1],
            same_answers=self._rate(sum(m.same_answer for m in found), total),
            same_tokens=self._same_tokens(found),
            diverged=len(forwards),
            first_forward=statistics.median(forwards) if forwards else None,
            forwards=statistics.fmean(m.forwards for m in runs),
            rows=statistics.fmean(m.rows for m in runs),
            skip_share=statistics.fmean(m.skip_share for m in runs),
            flops_saved=1 - sum(m.flops for m in runs) / sum(m.flops for m in exact),
            seconds=statistics.median(m.seconds for m in runs),
            tokens_per_second=statistics.median(m.tokens_per_second for m in runs),
            speedup=Interval(*(float(q) for q in np.quantile(speedups, (0.5, 0.25, 0.75)))),
        )

    def _rate(self, count: int, total: int) -> Interval:
        return Interval(count / total, *interval(count, total, self.confidence))

    def _right_change(
        self, found: Sequence[Measurement], base: Sequence[Measurement]
    ) -> Interval | None:
        pairs = [
            (b.right, m.right) for m, b in zip(found, base, strict=True) if m.right is not None
        ]
        if not pairs:
            return None
        lost, won = pairs.count((True, False)), pairs.count((False, True))
        ends = paired_difference(lost, won, len(pairs), self.confidence)
        return Interval((won - lost) / len(pairs), *ends)

    def _same_tokens(self, found: Sequence[Measurement]) -> Interval:
        """The mean over prompts, whose tokens depend on each other: prompts are resampled.

        Where no token differs, resampling sees no spread; then the share of prompts in which one
        may differ, which is never smaller, bounds it.
        """
        shares_N = np.array([m.same_tokens for m in found])
        if (shares_N == 1).all():
            return Interval(1.0, *interval(len(found), len(found), self.confidence))
        drawn = np.random.default_rng(0).integers(len(found), size=(_RESAMPLES, len(found)))
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(shares_N[drawn].mean(1), (tail, 1 - tail))
        return Interval(float(shares_N.mean()), float(low), float(high))


def _differs(m: Measurement, level: SweepLevel) -> bool:
    return not m.same_answer if level == "answer" else m.same_tokens < 1


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
