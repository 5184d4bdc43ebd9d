"""What a cache policy is: it says which rows a step recomputes; all others keep their K/V.

A policy is a frozen dataclass that derives from ``CachePolicy``: its fields are its settings. Most
say once for a step which rows are computed. Some say so anew before a layer: rows may leave there,
and others may come, for which the engine has kept what entered that layer when they were last
computed. Some say which keys rows see, another set in each layer.

Shape letters: N packed rows, R rows of one request, K positions, D width, H query heads,
U key/value heads, E head width, Y layers, B requests, L canvas length, W numbers of all heads of
a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from skipstone.errors import ConfigError
from skipstone.knob import Knob

if TYPE_CHECKING:
    from torch import Tensor

    from skipstone.canvas import Geometry, RequestStep, StepContext
    from skipstone.rows import Rows

CacheNeed = Literal["attention", "layer_inputs", "layer_changes", "contexts", "keys", "confidence"]
"""What the engine computes or keeps for a policy that asks for it: how rows attend, which is
computed eagerly; what enters the layers before which rows are named anew; what layers add to rows,
where not all are computed; what attention and MLP give, where the MLP computes some; queries and
keys, of which it may hide some, eagerly too; and how confident masks right of the block are, beside
those of the block, in ``StepContext.confidence_BG``."""


class LayerValues(Protocol):
    """The values (V) of one layer, for who chooses by how far they have moved."""

    def renew(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Compute the values of some of the rows that came, and nothing else. Changes the store.

        Args:
            rows: which.

        Returns:
            Their values before, and the new ones: [N, U*E] each, in the dtype of the model.
        """
        ...


class StepTaken(Protocol):
    """What is known of a step of a request afterwards."""

    @property
    def step(self) -> int:
        """Within its block, from 0."""
        ...

    @property
    def refresh(self) -> bool:
        """Whether all of the request was recomputed."""
        ...


class CacheSession:
    """What a cache policy remembers while requests are decoded."""

    @property
    def names_before(self) -> tuple[int, ...]:
        """Layers, from 2 on, before which ``rows_before`` is asked; the same in every step."""
        return ()

    def rows(self, context: StepContext) -> Rows:
        """The rows of this step that enter layer 1, for the active requests. Changes nothing.

        Step 0 of a block must recompute every row that the block will attend to and that may have
        changed; ``context.changed_rows()`` does. A step that is asked about may not be taken, or be
        one that comes later; ``taken`` says which is.
        """
        raise NotImplementedError(f"{type(self).__name__} has no rows")

    def taken(self, rows: Rows, context: StepContext) -> None:
        """Hear that this step is taken with these rows; one of a pure policy is not told."""

    def rows_before(
        self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext
    ) -> Rows | None:
        """The rows that go on through ``layer`` and those after it.

        Asked for requests that are not refreshed. Which rows there are must be known on the host;
        a session that decides by values reads them, and waits for it.

        Args:
            layer: counted from 1.
            x_ND: the states that enter it.
            rows: that came so far.
            context: where these requests are; ``context.rows_at`` makes rows of positions.

        Returns:
            Rows of these requests. One that did not come this far goes on from what entered this
            layer when it was last computed. None: those that came.
        """
        return None

    @property
    def chooses_in(self) -> tuple[int, ...]:
        """Layers, from 1 on, in which ``rows_in`` is asked; the same in every step."""
        return ()

    def rows_in(
        self, layer: int, values: LayerValues, rows: Rows, context: StepContext
    ) -> Rows | None:
        """The rows that ``layer`` computes; to the others it adds what it last added to them.

        All go on. Asked for requests that are not refreshed, of rows that this layer has computed
        before: one that it has not, it computes. As with ``rows_before``, the host must know.

        Args:
            layer: counted from 1.
            values: of this layer; they stay as they are unless some are renewed.
            rows: that came so far.
            context: where these requests are.

        Returns:
            Some of ``rows``, as ``rows.take`` gives them; None: all.
        """
        return None

    @property
    def chooses_mlp_in(self) -> tuple[int, ...]:
        """Layers, from 1 on, in which ``mlp_rows_in`` is asked; the same in every step."""
        return ()

    def mlp_rows_in(
        self,
        layer: int,
        before_NW: Tensor,
        context_NW: Tensor,
        rows: Rows,
        context: StepContext,
    ) -> Rows | None:
        """The rows of which ``layer`` computes the MLP; to the others it adds what that gave last.

        Attention is computed for all, and all go on. Asked for requests that are not refreshed, of
        rows whose MLP this layer has computed before. As with ``rows_before``, the host must know.

        Args:
            layer: counted from 1.
            before_NW: what the heads gave these rows when this layer last attended for them, W =
                H*E numbers each, before the last product of attention; in the dtype of the model.
            context_NW: the same now.
            rows: that came so far.
            context: where these requests are.

        Returns:
            Some of ``rows``, as ``rows.take`` gives them; None: all.
        """
        return None

    def attended(self, layer: int, weights_NK: Tensor, rows: Rows, context: StepContext) -> None:
        """See how rows attend in a layer, if the policy needs ``attention``.

        Args:
            layer: counted from 1.
            weights_NK: float32, mean over the heads: the part of its attention that each row gives
                to each position of its request.
            rows: whose weights these are.
            context: where these requests are.
        """

    def looks_at(self, at: RequestStep) -> bool:
        """Whether ``met`` is told of this step of a request, if the policy needs ``keys``."""
        return False

    def met(
        self, layer: int, q_RHE: Tensor, key_KUE: Tensor, rows: Rows, context: StepContext
    ) -> None:
        """See queries and keys of a layer, once keys are written and before the rows attend.

        What follows from them may stay on the device: the host has nothing to know.

        Args:
            layer: counted from 1.
            q_RHE: rotated queries of the rows.
            key_KUE: rotated keys of all positions that the rows may see.
            rows: of one request.
            context: of that request alone.
        """

    def visible(self, context: StepContext) -> Tensor | None:
        """Which keys the rows of this step see, if the policy needs ``keys``; None: all.

        Asked before the forward, for requests that are not refreshed. Each row must see itself.

        Returns:
            bool [Y, B, L]: False where a position is hidden, in a layer, from all rows of its
            request.
        """
        return None

    @property
    def hides(self) -> bool:
        """Whether it says what is visible."""
        return type(self).visible is not CacheSession.visible

    def forget(self, request: int) -> None:
        """Drop what was remembered of a request: another one takes its slot."""


class SessionAround(CacheSession):
    """A session that stands before another one, and hands on all that it does not answer itself."""

    def __init__(self, inner: CacheSession) -> None:
        """Stand before ``inner``."""
        self.inner = inner

    @property
    def names_before(self) -> tuple[int, ...]:
        """As of the other."""
        return self.inner.names_before

    def rows(self, context: StepContext) -> Rows:
        """As of the other."""
        return self.inner.rows(context)

    def taken(self, rows: Rows, context: StepContext) -> None:
        """Hand on."""
        self.inner.taken(rows, context)

    def rows_before(
        self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext
    ) -> Rows | None:
        """As of the other."""
        return self.inner.rows_before(layer, x_ND, rows, context)

    @property
    def chooses_in(self) -> tuple[int, ...]:
        """As of the other."""
        return self.inner.chooses_in

    def rows_in(
        self, layer: int, values: LayerValues, rows: Rows, context: StepContext
    ) -> Rows | None:
        """As of the other."""
        return self.inner.rows_in(layer, values, rows, context)

    @property
    def chooses_mlp_in(self) -> tuple[int, ...]:
        """As of the other."""
        return self.inner.chooses_mlp_in

    def mlp_rows_in(
        self,
        layer: int,
        before_NW: Tensor,
        context_NW: Tensor,
        rows: Rows,
        context: StepContext,
    ) -> Rows | None:
        """As of the other."""
        return self.inner.mlp_rows_in(layer, before_NW, context_NW, rows, context)

    def attended(self, layer: int, weights_NK: Tensor, rows: Rows, context: StepContext) -> None:
        """Hand on."""
        self.inner.attended(layer, weights_NK, rows, context)

    def looks_at(self, at: RequestStep) -> bool:
        """As of the other."""
        return self.inner.looks_at(at)

    def met(
        self, layer: int, q_RHE: Tensor, key_KUE: Tensor, rows: Rows, context: StepContext
    ) -> None:
        """Hand on."""
        self.inner.met(layer, q_RHE, key_KUE, rows, context)

    def visible(self, context: StepContext) -> Tensor | None:
        """As of the other."""
        return self.inner.visible(context)

    @property
    def hides(self) -> bool:
        """As of the other."""
        return self.inner.hides

    def forget(self, request: int) -> None:
        """Hand on."""
        self.inner.forget(request)


class CachePolicy(CacheSession):
    """A policy, to derive from: what it declares, and what diagnosis must know of it.

    One that remembers nothing overrides ``rows`` and is its own session; one that does gives a
    session of its own in ``start``. It is read without torch.
    """

    knob: ClassVar[Knob | None] = None
    """Which of its settings trades care for speed, and values of it that are worth comparing; a
    table of policies has the default and these. None: the default alone."""

    @property
    def pure(self) -> bool:
        """Whether the rows follow from where the request is alone, whatever was computed before.

        Only then are steps launched before the one before is known.
        """
        return False

    @property
    def needs(self) -> frozenset[CacheNeed]:
        """What the engine is to compute or keep for its sessions; it does nothing else."""
        return frozenset()

    def start(self, geometry: Geometry) -> CacheSession:
        """Memory for the requests of a batch.

        Raises:
            ConfigError: the settings do not fit the model.
        """
        return self

    def session_bytes(self, geometry: Geometry) -> int:
        """What a session keeps for a batch of that shape on the device, at most, in bytes.

        Beside what the engine keeps for it; it is taken from the memory that an engine is given.
        """
        return 0

    def most_rows(self, block_rows: int, length: int) -> int:
        """How many rows of a request a step that does not refresh computes at most.

        A skip keeps something of so many.

        Args:
            block_rows: of its widest block, with those that score it.
            length: of the request.
        """
        return length

    def idle(self, steps: Sequence[StepTaken]) -> tuple[str, ...]:
        """What of the settings had no effect in a request that took these steps, a line each."""
        return ()

    def fresher(self) -> CachePolicy | None:
        """The same cache with K/V that grow less old, as a remedy names it; None: none is."""
        return None

    def unhidden(self) -> CachePolicy | None:
        """The same cache with no key hidden, to tell what hiding does; None: it hides none."""
        return None


def refuse_causal_blocks(geometry: Geometry, does: str) -> None:
    """Refuse a model whose attention is causal over blocks.

    Args:
        geometry: of what is decoded.
        does: what the policy, named as in settings, does in vain there.

    Raises:
        ConfigError: it is.
    """
    if geometry.reach.block_size is not None:
        raise ConfigError(
            f"{does}, and attention of this model is causal over blocks: what stands left of a "
            f"block never changes there, and nothing right of it is seen; cache=dual is exact"
        )
