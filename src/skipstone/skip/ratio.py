"""ES-dLLM's early skip (arXiv 2603.10088): at given depths a part of the rows goes on.

``batch_generate`` and ``skip_in_hidden_state`` in github.com/zhuzj19/ES-dLLM (commit 3c5151d), of
hidden states. Published code forces the rows that were committed last, and not the neighbours of
these: ``keep_neighbours=false``. Of equal scores the leftmost row goes on; published code leaves
that to chance: ``ties=torch`` takes those that ``torch.topk`` happens to take.

Shape letters: N rows, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from skipstone.checks import check_fields
from skipstone.errors import ConfigError
from skipstone.knob import Knob
from skipstone.skip.base import Ranking, SkipPolicy, StageRows
from skipstone.skip.stages import CONFIDENT, TINY, Stage, parsed, stages_of

if TYPE_CHECKING:
    from skipstone.canvas import Geometry
    from skipstone.skip.scored import RatioSession


@dataclass(frozen=True)
class RatioSkip(SkipPolicy):
    """After layers at given depths, the rows with the highest scores go on, a fixed part of them.

    A row's score is ``alpha`` times its last confidence, 0 where it scores no mask of the block,
    and ``1 - alpha`` times how far its state has moved: the mean absolute change against the state
    it had when it last went on here, over the root mean square of that, and over the largest of all
    rows if that is above 1. Whatever the scores say, rows without such a state, the row of the
    leftmost mask and those of ``keep_committed`` and ``keep_neighbours`` go on; then the two most
    confident masks, if ``alpha`` is above 0. At least two rows more than were committed last go on.
    """

    keep: str = "0.5@0.125+0.25@0.25"
    """Parts of the rows, and the depths from which these go on, as parts of the layers: the first
    layer from there on is the last that all compute; ``+`` between them."""
    alpha: float = 0.5
    """Weight of the confidence against the change; 0 to 1."""
    full_every: int = 16
    """On the clock of positions and steps, all rows of a step go on so often; 0 is never."""
    keep_committed: bool = True
    """A row committed in the step before goes on: its K/V still speak of a mask."""
    keep_neighbours: bool = True
    """The direct neighbours of such a row go on too; false as published."""
    ties: Literal["left", "torch"] = "left"
    """Which of equal scores goes on: the leftmost, or the one that torch.topk happens to take."""

    knob = Knob("full_every", (2, 4, 8))

    def __post_init__(self) -> None:
        """Refuse settings outside their ranges."""
        check_fields(self)
        if not 0.0 <= self.alpha <= 1.0:
            raise ConfigError(f"ratio alpha is {self.alpha}, must be between 0 and 1")
        if self.full_every < 0:
            raise ConfigError(
                f"ratio full_every is {self.full_every}, must be 0 (never) or a number of steps"
            )
        parsed(self.keep)

    @property
    def skips_at_start(self) -> bool:
        """States of all rows were seen in the request's first step."""
        return True

    @property
    def old_may_lead(self) -> bool:
        """What skipped is not committed."""
        return False

    def start(self, geometry: Geometry) -> RatioSession:
        """Memory for one run: the states of every position after each stage."""
        # The settings are read without torch.
        from skipstone.skip.scored import RatioRule, RatioSession

        rule = RatioRule(
            alpha=self.alpha,
            full_every=self.full_every,
            committed=self.keep_committed,
            neighbours=self.keep_neighbours,
            as_torch=self.ties == "torch",
        )
        return RatioSession(geometry, rule, self.stages(geometry.num_layers))

    def session_bytes(self, geometry: Geometry, rows: int) -> int:
        """The state of each position after each stage, and whether there is one."""
        state = geometry.width * geometry.dtype.itemsize + 1
        stages = len(self.stages(geometry.num_layers))
        return stages * geometry.batch * geometry.length * state

    def leaves_after(self, num_layers: int) -> tuple[int, ...]:
        """The layers of the stages."""
        return tuple(stage.layer for stage in self.stages(num_layers))

    def ranking(self, rows: StageRows) -> Ranking | None:
        """The rule once more; None where none leave, or where ties are left to torch."""
        stages = {stage.layer: stage.ratio for stage in self.stages(rows.num_layers)}
        if self.ties == "torch" or rows.layer not in stages:
            return None
        forced_N = rows.leftmost_N | ~rows.known_N
        if self.keep_committed:
            forced_N = forced_N | (rows.beside_N if self.keep_neighbours else rows.committed_N)
        scale_N = np.sqrt(np.square(rows.reference_NW).mean(1)) + TINY
        moved_N = np.abs(rows.state_NW - rows.reference_NW).mean(1) / scale_N
        moved_N = moved_N / max(1.0, moved_N.max(initial=0.0))
        score_N = self.alpha * rows.confidence_N + (1 - self.alpha) * moved_N
        if self.alpha > 0:
            score_N[np.argsort(-rows.confidence_N, kind="stable")[:CONFIDENT]] += 2.0
        least = min(rows.committed + CONFIDENT, rows.block_length)
        return Ranking(
            np.argsort(-(score_N + 5.0 * forced_N), kind="stable"),
            max(int(stages[rows.layer] * rows.entered), least, int(forced_N.sum())),
        )

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        """Where rows leave, in a model of so many layers.

        Raises:
            ConfigError: after none, or only after the last layer.
        """
        return stages_of(self.keep, num_layers)
