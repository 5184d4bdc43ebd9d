"""The rule of commits that a record states, replayed on its scores without the model.

The rule is the unmask policy's own: the record spells the policy, and the policy says what it
commits. One that is not installed here, or that says nothing of the kind, has no rule to go by.

Shape letters: C candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from skipstone.errors import PolicyError
from skipstone.policies import UNMASK
from skipstone.quoting import shown
from skipstone.record import RunRecord, StepRecord
from skipstone.unmask import HostScores, Need, UnmaskPolicy
from skipstone.unmask.recorded import scores_of
from skipstone.unmask.threshold import reached


@dataclass(frozen=True, eq=False)
class CommitRule:
    """An unmask policy as a record states it, and how many steps it was given."""

    policy: UnmaskPolicy
    record: RunRecord

    @classmethod
    def of(cls, record: RunRecord) -> CommitRule | None:
        """The rule of a record; None if it is not known here."""
        policy = UNMASK.recorded(record.header.settings)
        if policy is None or not policy.replays:
            return None
        rule = cls(policy, record)
        told = all(_tells(step, policy.needs) for step in record.steps)
        return rule if told and rule._planned is not None else None

    @property
    def name(self) -> str:
        """Of the policy, with the settings that are not its defaults."""
        return UNMASK.spell(self.policy, brief=True)

    @property
    def by_schedule(self) -> bool:
        """Whether the number of steps decides how many are committed."""
        return self.policy.uses_steps

    def commits(
        self, step: StepRecord, change: Callable[[np.ndarray], np.ndarray] = lambda c: c
    ) -> tuple[int, ...]:
        """Positions that it commits from the recorded confidences, changed or as they are.

        Args:
            step: the recorded step.
            change: of confidences, float64 [C], -inf where nothing may be committed.
        """
        chosen_C = self._replayed(self._scores(step, change(step.candidates.allowed)))
        return tuple(step.candidates.position[chosen_C].tolist())

    def commits_highest_first(self, step: StepRecord) -> tuple[int, ...]:
        """The same, if the highest of equal positions came first."""
        chosen_C = self._replayed(_mirrored(self._scores(step)))[::-1]
        return tuple(step.candidates.position[chosen_C].tolist())

    def _replayed(self, scores: HostScores) -> np.ndarray:
        """What the policy says of recorded scores, bool [C].

        Raises:
            PolicyError: it raised an error, or gave something else.
        """
        try:
            chosen_C = self.policy.replay(scores)
        except Exception as error:  # a policy may be anybody's code
            said = f"raised {type(error).__name__}: {error}"
            raise PolicyError(f"replay of the unmask policy {self.name} {said}; mend it") from error
        shape = scores.confidence_C.shape
        if not (
            isinstance(chosen_C, np.ndarray) and (chosen_C.dtype, chosen_C.shape) == (bool, shape)
        ):
            raise PolicyError(
                f"replay of the unmask policy {self.name} gives {shown(chosen_C)}, must be a NumPy "
                f"array, bool {list(shape)}"
            )
        return chosen_C

    def _scores(self, step: StepRecord, confidence_C: np.ndarray | None = None) -> HostScores:
        before = self._before(step)
        return scores_of(step, *self._shares(step), confidence_C, before, self._suffix)

    @property
    def _suffix(self) -> int | None:
        """Positions right of a block that a step had, at most; None: all."""
        settings = self.record.header.settings
        if settings.get("growing_canvas") == "true":
            return 0
        window = settings.get("suffix_window", "")
        return int(window) if window.isdigit() else None

    def _shares(self, step: StepRecord) -> tuple[int, int]:
        """Steps that are planned for the block, and positions of a block that is not cut short."""
        assert self._planned is not None
        steps, length, block = self._planned
        start, stop = step.block_start - step.prompt_length, step.block_stop - step.prompt_length
        return max(1, steps * stop // length - steps * start // length), block

    @cached_property
    def _planned(self) -> tuple[int, int, int] | None:
        """Steps and positions of all blocks, and of one; None if the settings are no numbers."""
        settings = self.record.header.settings
        try:
            length = int(settings["gen_length"])
            steps = settings.get("steps", "None")
            block = int(settings.get("block_length", length))
            return (length if steps == "None" else int(steps)), max(1, length), block
        except (KeyError, ValueError):
            return None

    def _before(self, step: StepRecord) -> tuple[HostScores, ...]:
        """The steps before it, for a policy that may remember them."""
        if self.policy.pure:
            return ()
        return tuple(scores for forward, scores in self._history if forward < step.forward)

    @cached_property
    def _history(self) -> list[tuple[int, HostScores]]:
        return [
            (s.forward, scores_of(s, *self._shares(s), suffix=self._suffix))
            for s in self.record.steps
        ]


def _mirrored(scores: HostScores) -> HostScores:
    """The same with left and right exchanged."""
    return replace(
        scores,
        offset_C=-scores.offset_C[::-1],
        token_C=scores.token_C[::-1],
        confidence_C=scores.confidence_C[::-1],
        margin_C=scores.margin_C[::-1],
        entropy_C=scores.entropy_C[::-1],
        drift_C=scores.drift_C[::-1],
        held=scores.held_C[::-1],
        revisable=scores.revisable_C[::-1],
        earlier=tuple(map(_mirrored, scores.earlier)),
    )


def commits_above(step: StepRecord, value: float) -> tuple[int, ...]:
    """Positions that a loop commits which asks for this confidence, and always takes the best."""
    chosen_C = reached(scores_of(step, 1, step.block_stop - step.block_start), value)
    return tuple(step.candidates.position[chosen_C].tolist())


def _tells(step: StepRecord, needs: frozenset[Need]) -> bool:
    """Whether a step says all that a policy needs: an old trace, or another policy's, may not."""
    candidates = step.candidates
    columns = {Need.ENTROPY: candidates.entropy, Need.DRIFT: candidates.drift}
    asked = [column for need, column in columns.items() if need in needs]
    return not any(np.isnan(column[candidates.eligible]).any() for column in asked)
