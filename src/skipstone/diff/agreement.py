"""What the prompts of an audit prove about how often two settings disagree.

Prompts are taken as independent draws, so the number that disagree is binomial, and its rate lies
in the exact (Clopper-Pearson) interval with the given confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from skipstone.diff.binomial import interval, sign_test
from skipstone.diff.judges import find_judge
from skipstone.errors import ConfigError
from skipstone.quoting import shown

Level = Literal["answer", "token", "decision"]
"""What has to be the same: the text up to EOS; every final token; every commit in every step."""

AuditVerdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]

_MOST_PROMPTS = 10_000_000


@dataclass(frozen=True)
class Question:
    """One prompt of an audit."""

    prompt: str
    answer: str | None = None
    """What a right answer holds, if it is known."""
    line: int = 0
    """Where it stands in its file, from 1."""
    judge: str = "contains"
    """The rule that says whether an answer is right: see ``diff.judges``."""
    family: str = ""
    """Of what kind it is; tables have a part for each."""

    def is_right(self, text: str) -> bool | None:
        """Whether a text is a right answer; None if the right one is not known.

        Raises:
            ConfigError: the judge cannot be found, or failed.
        """
        if self.answer is None:
            return None
        judge = find_judge(self.judge)
        try:
            return bool(judge(text, self.answer))
        except Exception as error:
            raise ConfigError(
                f"judge {shown(self.judge)} failed on {shown(text)}: {type(error).__name__}: "
                f"{error}; it must take any text"
            ) from error


@dataclass(frozen=True)
class Row:
    """What became of one prompt."""

    prompt: str
    text_a: str
    """The baseline's answer, up to EOS."""
    text_b: str
    """The candidate's."""
    differing_positions: tuple[int, ...]
    """New tokens that differ at the end."""
    forwards_a: int
    forwards_b: int
    kind: str = ""
    """What the first different decision is about; empty if both decide the same."""
    block: int = -1
    """Of that decision; so are the following."""
    step: int = -1
    position: int = -1
    """Counted from the first new token."""

    def disagrees(self, level: Level) -> bool:
        """Whether the two runs disagree at a level; the levels include each other."""
        if level == "answer":
            return self.text_a != self.text_b
        tokens = bool(self.differing_positions)
        return tokens if level == "token" else tokens or bool(self.kind)

    @property
    def where(self) -> str:
        """Where the two runs part, in words."""
        if not self.kind:
            return "same decisions"
        return f"block {self.block}, step {self.step}, new token {self.position} ({self.kind})"


@dataclass(frozen=True)
class Judgement:
    """Whether the rate of disagreement is within its budget."""

    disagreements: int
    total: int
    budget: float
    confidence: float
    low: float
    """Lower end of the interval of the true rate."""
    high: float
    """Upper end."""

    @property
    def rate(self) -> float:
        """Share of the prompts that disagree."""
        return self.disagreements / self.total

    @property
    def verdict(self) -> AuditVerdict:
        """PASS needs the whole interval within the budget; FAIL, a rate that is over it."""
        if self.high <= self.budget:
            return "PASS"
        return "FAIL" if self.rate > self.budget else "INCONCLUSIVE"

    @property
    def proven(self) -> bool:
        """Whether the interval leaves no doubt about the verdict."""
        return self.high <= self.budget or self.low > self.budget

    @property
    def exit_code(self) -> int:
        """Of ``skipstone audit``: 0 for PASS, 1 for FAIL, 3 for INCONCLUSIVE; 2 is an error."""
        return {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[self.verdict]

    def needed(self) -> int | None:
        """About how many prompts would pass at this rate; None if no number would."""
        if self.rate >= self.budget:
            return None
        total = self.total
        while self._high_of(total) > self.budget:
            total *= 2
            if total > _MOST_PROMPTS:
                return None
        enough, short = total, total // 2
        while enough - short > max(1, enough // 1000):
            middle = (enough + short) // 2
            if self._high_of(middle) <= self.budget:
                enough = middle
            else:
                short = middle
        return enough

    def _high_of(self, total: int) -> float:
        return interval(round(self.rate * total), total, self.confidence)[1]


@dataclass(frozen=True)
class AnswerCounts:
    """Right and wrong answers of both sides, where the right one is known."""

    both: int
    """Prompts that both answer right."""
    only_a: int
    only_b: int
    neither: int
    p_value: float
    """Of the exact McNemar test: how likely so uneven a pair of ``only_a`` and ``only_b`` is if
    both sides are equally often right."""

    @property
    def total(self) -> int:
        """Prompts with a known answer."""
        return self.both + self.only_a + self.only_b + self.neither

    def as_json(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self) | {"total": self.total}


def judge(disagreements: int, total: int, budget: float, confidence: float) -> Judgement:
    """Hold a count of disagreements against a budget.

    Raises:
        ConfigError: there are no prompts, or the budget or the confidence cannot be met.
    """
    if not total:
        raise ConfigError("there are no prompts to judge; give at least one")
    check_budget(budget, confidence)
    low, high = interval(disagreements, total, confidence)
    return Judgement(disagreements, total, budget, confidence, low, high)


def check_budget(budget: float, confidence: float) -> None:
    """Refuse what no number of prompts can show.

    Raises:
        ConfigError: the budget or the confidence is out of range.
    """
    if not 0 < budget < 1:
        raise ConfigError(
            f"max-disagreement is {budget:g}, must be above 0 and below 1 (or 0% and 100%): no "
            f"number of prompts can show that two runs never disagree"
        )
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence:g}, must be above 0 and below 1, like 0.95")


def known_answers(questions: Sequence[Question], rows: Sequence[Row]) -> AnswerCounts | None:
    """Compare both sides with the known answers; None if there are none.

    Args:
        questions: the prompts.
        rows: what became of them, in the same order.
    """
    pairs = [
        (question.is_right(row.text_a), question.is_right(row.text_b))
        for question, row in zip(questions, rows, strict=True)
        if question.answer is not None
    ]
    if not pairs:
        return None
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    return AnswerCounts(
        both=pairs.count((True, True)),
        only_a=only_a,
        only_b=only_b,
        neither=pairs.count((False, False)),
        p_value=sign_test(only_a, only_b),
    )


def paired_difference(
    only_a: int, only_b: int, total: int, confidence: float
) -> tuple[float, float]:
    """Interval of how much oftener B is right than A, from the same prompts.

    Each of the two rates, "only A" and "only B", gets an exact interval with half of the doubt, so
    the interval of their difference holds at least the confidence, also where nothing was seen.

    Args:
        only_a: prompts that only A answers right.
        only_b: prompts that only B answers right.
        total: prompts with a known answer, at least one.
        confidence: of the interval.
    """
    each = (1 + confidence) / 2
    low_a, high_a = interval(only_a, total, each)
    low_b, high_b = interval(only_b, total, each)
    return low_b - high_a, high_b - low_a
