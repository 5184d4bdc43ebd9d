"""What a skip policy is: it says which rows of a step go on past a layer.

A row that leaves keeps the K/V of the deeper layers, its final state and its logits from the last
time it went all the way. Dropping and packing rows is the runner's business; a policy answers with
a mask over the rows it was given.

Shape letters: N packed rows, D width, S compared layers, J judged rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from skipstone.knob import Knob

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from skipstone.canvas import Geometry, StepContext
    from skipstone.rows import Rows


@dataclass(frozen=True, eq=False)
class SkipScores:
    """Why rows were kept or dropped in one step, for those who watch."""

    rows: Rows
    """The rows that were judged, N of them."""
    similarity_SN: Tensor
    """float64: similarity of each compared layer."""
    smallest_N: Tensor
    """float64: smallest similarity of each row."""
    mean_N: Tensor
    """float64: mean similarity of each row."""
    stable_N: Tensor
    """bool: what the similarity alone says."""
    forced_N: Tensor
    """bool: rows that may not skip in this step whatever their similarity and reference."""
    reference_position_N: Tensor
    """int64: the position whose states each row was compared with; it should be the row's own.

    -1 where there was nothing to compare with; such a row has similarity 0, and goes on.
    """
    reference_forward_N: Tensor
    """int64: the forward in which these states were computed; -1 if there were none."""


class SkipSession(Protocol):
    """What a skip policy remembers during one run."""

    @property
    def scores(self) -> SkipScores | None:
        """Scores of the latest step; None if that step judged nothing."""
        ...

    @property
    def decides_after(self) -> tuple[int, ...]:
        """Layers after which ``keep`` may drop rows, ascending; () is every one.

        Up to the next of them all can be computed, as one graph is. After the last layer of the
        model there is nothing to drop.
        """
        ...

    def expect(self, rows: Rows) -> None:
        """Hear which rows steps may ask about, until the next call for the same requests.

        Called before the forward from whose states a session learns what it compares with. What
        was learned before is kept where its position is still expected; requests without rows
        here are left as they are. A session that keeps no states has nothing to do.
        """
        ...

    def keep(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> Tensor | None:
        """Which rows go on after ``layer`` (counted from 1).

        Called after every layer up to the last of ``decides_after`` with the rows that are still
        going; ``rows`` never grows within a step. Not called in steps where no row may skip
        (``learn`` is). Rows in ``rows.fresh_N`` must go on.

        Returns:
            bool [N], False for a row that leaves; None if all go on, as it must be after a layer
            that ``decides_after`` does not name.
        """
        ...

    def learn(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> None:
        """See the states after ``layer`` in a step where every row goes all the way."""
        ...

    def forget(self, request: int) -> None:
        """Drop what was remembered of a request: another one takes its slot."""
        ...


@dataclass(frozen=True)
class Bar:
    """The number that rows are held against."""

    setting: str
    """The field of the policy that states it."""
    value: float
    """A stable row's measure is above this."""
    dtype: str
    """That the similarities are computed in."""


@dataclass(frozen=True, eq=False)
class SkipReplay:
    """What a rule says about recorded similarities."""

    measure_J: np.ndarray
    """float64: what is held against the bar."""
    slack_J: np.ndarray
    """float64: how far a row is from the other verdict; negative where it is not stable."""
    stable_J: np.ndarray
    """bool: the similarities allow a skip."""


@dataclass(frozen=True, eq=False)
class StageRows:
    """Rows of one request after a layer where some of them leave, as recorded; by position."""

    layer: int
    """Counted from 1."""
    num_layers: int
    entered: int
    """How many rows entered layer 1."""
    block_length: int
    committed: int
    """How many positions the step before committed."""
    state_NW: np.ndarray
    """float64: after the layer."""
    reference_NW: np.ndarray
    """float64: what it is held against; zeros where there is nothing."""
    known_N: np.ndarray
    """bool: whether there is something."""
    confidence_N: np.ndarray
    """float64: the last one of the mask of the block that a row scores; 0 if it scores none."""
    leftmost_N: np.ndarray
    """bool: the row scores the leftmost mask of the block."""
    committed_N: np.ndarray
    """bool: the step before committed the row's position."""
    beside_N: np.ndarray
    """bool: or that of a direct neighbour."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """Who goes on after a layer, by a rule that compares rows with each other."""

    order_N: np.ndarray
    """int64: numbers of the rows; who goes on first comes first."""
    count: int
    """How many go on."""


class SkipPolicy:
    """A policy, to derive from: a frozen dataclass whose fields are its settings.

    It is read without torch, so that whoever opens a trace can replay what it judged.
    """

    knob: ClassVar[Knob | None] = None
    """Which of its settings trades care for speed, and values of it that are worth comparing; a
    table of policies has the default and these. None: the default alone."""

    @property
    def pure(self) -> bool:
        """Whether a step in which a block has no masks left changes nothing in the blocks after it.

        Then steps are launched before the one before is known.
        """
        return False

    @property
    def skips_at_start(self) -> bool:
        """Whether rows may skip in a block's first step too, where the cache does not refresh."""
        return False

    @property
    def old_may_lead(self) -> bool:
        """Whether a mask that skipped is committed by its old score, where that is the best."""
        return True

    @property
    def bar(self) -> Bar | None:
        """The number that decides; None if there is no such number."""
        return None

    def start(self, geometry: Geometry) -> SkipSession | None:
        """Memory for one run; None if this policy never skips.

        Raises:
            ConfigError: the settings do not fit the model.
        """
        raise NotImplementedError(f"{type(self).__name__} has no start")

    def session_bytes(self, geometry: Geometry, rows: int) -> int:
        """What a session keeps for a batch of that shape on the device, at most, in bytes.

        It is taken from the memory that an engine is given.

        Args:
            geometry: of the batch.
            rows: that are expected of a request at most.
        """
        return 0

    def replay(self, similarity_JS: np.ndarray) -> SkipReplay | None:
        """The verdict on recorded similarities, float64, without torch; None if it is not known."""
        return None

    def leaves_after(self, num_layers: int) -> tuple[int, ...]:
        """Layers after which a rule that compares rows lets some leave, in a model of so many.

        Raises:
            ConfigError: the settings do not fit such a model.
        """
        return ()

    def ranking(self, rows: StageRows) -> Ranking | None:
        """Who goes on of recorded rows, without torch; None if the rule compares no rows."""
        return None
