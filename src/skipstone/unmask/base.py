"""What an unmask policy is: it says which masks a step commits.

A policy is a frozen dataclass that derives from ``UnmaskPolicy``: its fields are its settings, its
repr, its command-line form and its entry in the header of a trace. It is read without torch, so
that whoever opens a trace can replay what it decided; what it computes with tensors imports torch
when it runs.

Shape letters: B requests, G generation length, N masks, V vocabulary, C candidates of one request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from skipstone.knob import Knob

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from skipstone.canvas import Geometry, StepContext
    from skipstone.unmask.scores import HostScores, MaskLogits, Need, Scores


class UnmaskSession(Protocol):
    """What an unmask policy remembers while requests are decoded."""

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """Which offsets are committed now: bool [B, G]. Equal confidence: lowest position first.

        With ``Need.COMMITTED`` these may be committed ones too: each takes its new token; with
        ``Need.UNSEEN`` each becomes a mask again.

        No host read, no boolean indexing, no shape that depends on values: the same code runs
        inside a captured graph.
        """
        ...

    def forget(self, request: int) -> None:
        """Drop what was remembered of a request: another one takes its place in the batch."""
        ...


class WeighingSession(UnmaskSession, Protocol):
    """What a policy remembers that names ``Need.LOGITS`` in its needs."""

    def weigh(self, masks: MaskLogits, context: StepContext) -> Tensor:
        """The logits to choose by, [N, V] in float32 or better, of every mask that was scored.

        Called before ``select``, at most once in a step for each mask; those of one request may
        come in several calls. Whoever only looks returns ``masks.logits_NV``. What is recorded as
        token and confidence is what follows from these. No host read, as in ``select``.
        """
        ...


class NarrowingSession(UnmaskSession, Protocol):
    """What a policy remembers that ``narrows`` what rows see."""

    @property
    def sees_B1(self) -> Tensor:
        """int64 [B, 1]: from this offset on, the rows of a request's next step see nothing.

        Asked after ``select``, and read by the host together with what was committed.
        """
        ...


class UnmaskPolicy:
    """A policy, to derive from: what it declares, what it decides, and its rule once more.

    One that remembers nothing overrides ``select`` and is its own session; one that does gives a
    session of its own in ``start``.
    """

    knob: ClassVar[Knob | None] = None
    """Which of its settings trades care for speed, and values of it that are worth comparing; a
    table of policies has the default and these. None: the default alone."""

    @property
    def needs(self) -> frozenset[Need]:
        """Which scores it chooses by beside the probability; the engine computes no others."""
        return frozenset()

    @property
    def uses_steps(self) -> bool:
        """Whether the number of steps decides how much is committed."""
        return False

    @property
    def uses_seed(self) -> bool:
        """Whether random numbers decide what is committed."""
        return False

    @property
    def pure(self) -> bool:
        """Whether what follows depends on nothing but the canvas and the K/V that are kept.

        That is: what it selects follows from the scores of this step and from where the request is,
        whatever was scored or selected before; and it selects something wherever it may. Only then
        are steps launched before the one before is known.
        """
        return False

    @property
    def keeps_to_schedule(self) -> bool:
        """Whether the last step of a block's budget commits all that is left of the block.

        Of those that are pure, the first step of the next block is then launched before that one is
        known, too.
        """
        return False

    @property
    def paced_by_time(self) -> bool:
        """Whether more steps than masks still change what is committed in one."""
        return False

    @property
    def post_steps_of_block(self) -> int:
        """How many steps may still replace tokens of a block in which no mask is left.

        A block ends with the first of its steps that changes nothing, or after so many. Whoever
        replaces none has none.
        """
        return 0

    @property
    def opens_alone(self) -> bool:
        """Whether the first step of a block commits the block's first mask and no other.

        The row that scores it from the block before is then not computed again.
        """
        return False

    @property
    def narrows(self) -> bool:
        """Whether its session says how far the rows of the next step see; it is not pure then."""
        return False

    def idle(self) -> tuple[str, ...]:
        """Which of its settings have no effect beside its others, a sentence each."""
        return ()

    @property
    def replays(self) -> bool:
        """Whether ``replay`` says what it commits; diagnosis has no rule to go by if not.

        A class that changes what is selected must say so in a ``replay`` of its own.
        """
        order = type(self).__mro__
        by, replayed = (
            next(i for i, owner in enumerate(order) if names & vars(owner).keys())
            for names in ({"select", "start"}, {"replay"})
        )
        return not self.uses_seed and replayed <= by < order.index(UnmaskPolicy)

    def start(self, geometry: Geometry) -> UnmaskSession:
        """Memory for the requests of a batch."""
        return self

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        """As ``UnmaskSession.select``, for a policy that is its own session."""
        raise NotImplementedError(f"{type(self).__name__} has neither select nor start")

    def forget(self, request: int) -> None:
        """Nothing was remembered."""

    def replay(self, scores: HostScores) -> np.ndarray:
        """What ``select`` commits or replaces of one request, from recorded scores: bool [C].

        Pure arithmetic on the host, without torch. It must agree with ``select`` for every score,
        equal ones among them: a decision that does not is told as a fault.
        """
        raise NotImplementedError(f"{type(self).__name__} has no replay")

    def bound(self, scores: HostScores) -> np.ndarray | None:
        """What confidence ``select`` asks of each candidate, for those who record it.

        Returns:
            float64 [C]; None if there is no such bound.
        """
        return None
