"""What the settings of a run say about its commit rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan

import numpy as np

from skipstone.diagnosis.dtypes import rounded
from skipstone.diagnosis.loop.choice import BlockProgress
from skipstone.diagnosis.loop.rule import THRESHOLDS, LoopRule, ValueRange
from skipstone.record import Header


@dataclass(frozen=True)
class Stated:
    """Numbers of the settings; NaN and None where they are not stated."""

    threshold: float = nan
    factor: float = nan
    guidance: float = nan
    """Scale of it: zero is none."""
    steps: int | None = None
    block_length: int | None = None
    gen_length: int = 0
    prompt_length: int = 0
    score_offset: int = 0
    """How far the row that gave logits is from the position that they stand at."""
    own: bool = False
    """Whether they are those of our engine, which follows them unless a fault is planted."""

    @classmethod
    def of(cls, header: Header, score_offset: int = 0) -> Stated:
        """Read our own settings, or those that a foreign loop was called with.

        Args:
            header: of the run.
            score_offset: how far the row that gave logits is from where they stand in its trace.
        """
        known = {**header.settings, **header.stated}
        name, _, fields = known.get("unmask", "").partition(":")
        own = dict(pair.split("=", 1) for pair in fields.split(",") if "=" in pair)
        value = _number(own, "value")
        foreign = _number(known, "threshold", "confidence_threshold")
        return cls(
            threshold=value if name == "threshold" else foreign,
            factor=value if name == "factor" else _number(known, "factor"),
            guidance=_number(known, "cfg_scale", "guidance_scale", "cfg"),
            steps=_whole(known, "steps"),
            block_length=_whole(known, "block_length", "block_size"),
            gen_length=header.gen_length,
            prompt_length=len(header.prompt_ids),
            score_offset=score_offset,
            own=header.source == "skipstone" and name in ("threshold", "factor"),
        )

    def names(self, rule: LoopRule) -> bool:
        """Whether a rule is the one that these settings state, as far as they state any."""
        number, value = rule.selection.number, rule.selection.value
        if number in THRESHOLDS:
            return self._held(rule) in value
        if not isnan(self.threshold):
            return False
        if number == "factor":
            return self.factor in value
        return isnan(self.factor)

    def states(self, rule: LoopRule) -> bool:
        """Whether these settings state this very rule, and it had a say in the run.

        A foreign loop may be given a threshold that it does not heed; one that never let more than
        the best pass would not show that.
        """
        number, value = rule.selection.number, rule.selection.value
        if number not in (*THRESHOLDS, "factor") or not self.names(rule):
            return False
        return self.own or value.high < (1.0 if number in THRESHOLDS else float("inf"))

    def narrowed(self, rule: LoopRule) -> LoopRule:
        """A rule that these settings state, with the value that they state."""
        held = self._held(rule)
        return replace(rule, selection=replace(rule.selection, value=ValueRange(held, held)))

    def _held(self, rule: LoopRule) -> float:
        """The stated value of the free number of a rule, as its dtype holds it."""
        return float(rounded(np.array(self.number(rule)), rule.confidence.dtype))

    def number(self, rule: LoopRule) -> float:
        """The stated value of the free number of a rule; NaN if none is stated."""
        number = rule.selection.number
        if number in THRESHOLDS:
            return self.threshold
        return self.factor if number == "factor" else nan

    def steps_of(self, places: Sequence[BlockProgress]) -> list[int]:
        """Steps that the settings give a block."""
        if self.steps is None or not self.gen_length:
            return []
        found = list[int]()
        for place in places:
            start, stop = place.start - self.prompt_length, place.stop - self.prompt_length
            share = self.steps * stop // self.gen_length - self.steps * start // self.gen_length
            found.append(max(1, share))
        return sorted(set(found))


def _number(settings: Mapping[str, str], *names: str) -> float:
    """The first of some settings that is a number; NaN if none is."""
    for name in names:
        try:
            return float(settings[name])
        except (KeyError, ValueError):
            continue
    return nan


def _whole(settings: Mapping[str, str], *names: str) -> int | None:
    value = _number(settings, *names)
    return int(value) if not isnan(value) and value >= 1 else None
