"""What a run lets others see: a read-only view of each step, made only when somebody looks.

An observer declares what it wants in ``taps``. The tensors of a view are valid during the call
only. A step that is shown to an observer without taps may have been overtaken by the next one: then
canvas and K/V store are already that one's. An error in an observer stops the run: a trace with
holes must not look like a trace.

The observer of a run (``generate``, ``generate_batch``) is shown whole steps of all its requests.
That of a request (``submit``) is shown a batch of one, whoever is decoded beside it, and its error
ends that request (``alone``, ``watch``).

Shape letters: B requests, L canvas length, G generation length, N packed rows, D width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from skipstone.cache import CachePolicy
from skipstone.canvas import HostCanvas, StepContext
from skipstone.engine.settings import Settings
from skipstone.memory.store import KVStore
from skipstone.models.load import Model
from skipstone.rows import Rows
from skipstone.skip import SkipScores
from skipstone.unmask import UnmaskPolicy

if TYPE_CHECKING:
    from skipstone.engine.result import Result


@dataclass(frozen=True)
class Taps:
    """What an observer wants beyond decisions, which every view has."""

    states: tuple[int, ...] = ()
    """Layers whose output states are wanted, counted from 1; 0 is the embedding."""
    logits: bool = False
    """Logits of the rows that were scored."""

    def __bool__(self) -> bool:
        """Whether anything is wanted."""
        return self.logits or bool(self.states)

    def __or__(self, other: Taps) -> Taps:
        """What both want."""
        states = tuple(sorted({*self.states, *other.states}))
        return Taps(states, self.logits or other.logits)


@dataclass(frozen=True, eq=False)
class Board:
    """What is known about every offset of the generation region, old or fresh."""

    token_BG: Tensor
    """int64: the token the offset would take."""
    confidence_BG: Tensor
    """float64: its probability."""
    runner_up_BG: Tensor
    """int64: the most probable other token."""
    runner_up_confidence_BG: Tensor
    """float64: the probability of the runner-up."""
    scored_at_BG: Tensor
    """int64: the forward of its request that said so; -1 where none has."""
    entropy_BG: Tensor | None = None
    """float64: entropy of its distribution; None while no request has asked for it."""
    drift_BG: Tensor | None = None
    """float64: divergence from the one before; None while no request has asked for it."""

    @property
    def tables(self) -> dict[str, Tensor]:
        """All that there is of it, by name in this order."""
        return {name: table for name, table in vars(self).items() if table is not None}

    def copy(self) -> Board:
        """The same, which nothing overwrites: one launch, as every value is 64 bits long."""
        tables = self.tables
        packed = torch.stack([table_BG.view(torch.int64) for table_BG in tables.values()])
        pairs = zip(packed, tables.items(), strict=True)
        return Board(**{name: copy.view(table.dtype) for copy, (name, table) in pairs})


@dataclass(frozen=True, eq=False)
class TappedStates:
    """States after one layer of the rows that were still going there."""

    rows: Rows
    x_ND: Tensor


@dataclass(frozen=True, eq=False)
class StepView:
    """One step, seen after its commit."""

    context: StepContext
    """Where the loop was; its canvas is the one after the commit."""
    recovery: bool
    """This forward repeats a step that committed nothing, over all rows and without skip."""
    before: HostCanvas
    """The generation region before the commit."""
    after: HostCanvas
    """The generation region after the commit and the early stop."""
    commit_BG: Tensor
    """bool: offsets committed in this step."""
    allowed_BG: Tensor
    """float64: confidence of the masks that this step was allowed to commit; -inf elsewhere."""
    cache: tuple[CachePolicy, ...]
    """Who named the rows of each request of ``context``."""
    unmask: tuple[UnmaskPolicy, ...]
    """Who chose for each request of ``context``; its ``bound`` says what it asked."""
    board: Board
    rows: Rows
    """Rows that entered layer 1."""
    finished: Rows | None
    """Rows that went through every layer; None if all rows skipped."""
    skip: SkipScores | None
    """How the skip policy judged; None where it had nothing to say."""
    whole: tuple[int, ...]
    """Slots whose requests could not lose a row in this step, whatever the policy says of them."""
    skip_layers_N: np.ndarray
    """int64: the first layer that each of ``rows`` did not compute as it had left; 0 if there is
    none."""
    layer_parts_YN: np.ndarray | None
    """uint8: what each layer computed of each of ``rows``: 0 nothing, 1 values alone, 2
    attention, 3 all of it; None if no cache policy chose rows of layers."""
    first_layers_BL: np.ndarray | None
    """int64: the first layer that computed each position, 0 where none did; None if no row joined
    before a later layer than the first."""
    store: KVStore
    """Keys and values of every position, as this forward left them. The next one overwrites it."""
    visible_YBL: Tensor | None
    """bool: which keys rows saw in each of Y layers; None if no cache policy has hidden any."""
    entered_at_BL: np.ndarray
    """int64: the forward in which a position last entered layer 1; -1 never."""
    finished_at_BL: np.ndarray
    """int64: the forward in which a position last went through every layer; -1 never."""
    states: dict[int, TappedStates]
    """By layer, for the layers that were tapped."""
    scored: Rows | None
    """Rows that got logits in this step."""
    logits_NV: Tensor | None
    """Logits of ``scored``, in the model's dtype; None unless tapped."""


class Observer(Protocol):
    """Watches a run, or one request. Must not change anything it is shown."""

    @property
    def taps(self) -> Taps:
        """What it wants; the same for all of a run."""
        ...

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        """A run begins; one request that was submitted is a run, and begins when admitted."""
        ...

    def on_step(self, view: StepView) -> None:
        """A forward and its commit are done."""
        ...

    def on_end(self, results: Sequence[Result]) -> None:
        """The run ended by itself.

        Args:
            results: of its prompts, in order; none where a request that was submitted was cancelled
                or ended with an error of others.
        """
        ...


@dataclass(frozen=True)
class Observers:
    """Several observers as one."""

    members: tuple[Observer, ...]

    @property
    def taps(self) -> Taps:
        """What any of them wants."""
        wanted = Taps()
        for member in self.members:
            wanted |= member.taps
        return wanted

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        """Tell each."""
        for member in self.members:
            member.on_start(model, settings, prompts)

    def on_step(self, view: StepView) -> None:
        """Show each."""
        for member in self.members:
            member.on_step(view)

    def on_end(self, results: Sequence[Result]) -> None:
        """Tell each."""
        for member in self.members:
            member.on_end(results)
