"""The commit rules once more, on recorded candidates: a decision is replayed without the model.

Shape letters: C candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skipstone.record import Candidates, RunRecord, StepRecord


@dataclass(frozen=True)
class Rule:
    """An unmask policy as it is spelled in the settings of a record."""

    name: str
    value: float
    steps: int | None
    gen_length: int

    @classmethod
    def of(cls, settings: dict[str, str]) -> Rule | None:
        """Read the settings of a record; None if its rule is not known here."""
        name, _, fields = settings.get("unmask", "").partition(":")
        values = dict(pair.split("=", 1) for pair in fields.split(",") if "=" in pair)
        if name not in ("fixed", "threshold", "factor") or values.get("order") == "random":
            return None
        steps = settings.get("steps", "None")
        return cls(
            name=name,
            value=float(values.get("value", "nan")),
            steps=None if steps == "None" else int(steps),
            gen_length=int(settings.get("gen_length", "0")),
        )

    def budget(self, step: StepRecord) -> int:
        """Steps planned for the block of a step."""
        start, stop = step.block_start - step.prompt_length, step.block_stop - step.prompt_length
        if self.steps is None:
            return stop - start
        length = self.gen_length
        return max(1, self.steps * stop // length - self.steps * start // length)

    def select(self, step: StepRecord, confidence: np.ndarray) -> np.ndarray:
        """Which candidates this rule commits: bool [C].

        Args:
            step: the recorded step.
            confidence: float64 [C], -inf where nothing may be committed.
        """
        rank = ranks(confidence)
        if self.name == "fixed":
            left = max(1, self.budget(step) - step.step)
            chosen = rank < math.ceil(step.masks_before / left)
        elif self.name == "threshold":
            chosen = (confidence >= self.value) | (rank == 0)
        else:
            chosen = (confidence >= 1.0 - self.value / (rank + 2.0)) | (rank == 0)
        return chosen & ~np.isneginf(confidence)


def draws(settings: dict[str, str]) -> bool:
    """Whether the settings say that tokens are drawn."""
    try:
        return float(settings["temperature"]) > 0
    except (KeyError, ValueError):
        return False


def skip_threshold(settings: dict[str, str]) -> float:
    """The mean similarity above which the settings let a row skip; NaN if they state none."""
    for part in settings.get("skip", "").partition(":")[2].split(","):
        name, _, value = part.partition("=")
        if name == "skip_threshold":
            return float(value)
    return math.nan


def implied_threshold(record: RunRecord) -> tuple[float, float] | None:
    """Between which means the threshold must lie by which rows were found stable.

    None if no threshold explains it, or if it is the stated one.
    """
    judged = [s.judgements for s in record.steps if s.judgements is not None]
    if not judged:
        return None
    mean = np.concatenate([j.mean for j in judged])
    stable = np.concatenate([j.stable for j in judged])
    low = float(mean[~stable].max(initial=-1.0))
    high = float(mean[stable].min(initial=1.0))
    stated = skip_threshold(record.header.settings)
    if low > high or not stable.any() or low <= stated <= high:
        return None
    return low, high


def ranks(confidence: np.ndarray) -> np.ndarray:
    """Rank of each candidate, 0 for the most confident; equal confidence: lowest position first."""
    order = np.argsort(-confidence, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    return rank


def allowed(candidates: Candidates) -> np.ndarray:
    """float64 [C]: the recorded confidence; -inf where nothing could be committed."""
    return np.where(candidates.eligible, candidates.confidence, -np.inf)


def commits(
    rule: Rule, step: StepRecord, change: Callable[[np.ndarray], np.ndarray] = lambda c: c
) -> tuple[int, ...]:
    """Positions that a rule commits from the recorded confidences, changed or as they are."""
    chosen = rule.select(step, change(allowed(step.candidates)))
    return tuple(step.candidates.position[chosen].tolist())
