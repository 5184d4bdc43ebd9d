"""The session of a skip policy in a run: what it raises, or gives wrongly, names the policy.

Shape letters: N packed rows, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from skipstone.canvas import Geometry, StepContext
from skipstone.engine.guarded import checked_kept, guarded
from skipstone.errors import ConfigError
from skipstone.rows import Rows
from skipstone.skip import SkipPolicy, SkipScores, SkipSession


@dataclass(eq=False)
class Skipping:
    """Asks a skip policy which rows go on; its errors end the requests of the batch."""

    policy: SkipPolicy
    session: SkipSession
    stops: tuple[int, ...]
    """Layers after which rows may leave, ascending; after the last of the model none can."""

    @classmethod
    def start(cls, policy: SkipPolicy, geometry: Geometry) -> Skipping | None:
        """Memory for one run; None if the policy never skips.

        Raises:
            ConfigError: the policy does not fit the model, or names a layer that it has not.
            PolicyError: it raised an error.
        """
        with guarded(policy):
            session = policy.start(geometry)
            said = () if session is None else tuple(session.decides_after)
        if session is None:
            return None
        num_layers = geometry.num_layers
        wrong = [layer for layer in said if not 1 <= layer <= num_layers]
        if wrong:
            raise ConfigError(
                f"{policy!r} decides after layer {wrong[0]}, must be one of the model's "
                f"{num_layers} layers"
            )
        stops = tuple(layer for layer in range(1, num_layers) if not said or layer in said)
        return cls(policy, session, stops)

    @property
    def scores(self) -> SkipScores | None:
        """Scores of the latest step; None if that step judged nothing."""
        with guarded(self.policy):
            return self.session.scores

    def forget(self, slot: int) -> None:
        """Drop what was remembered of the request in a slot."""
        with guarded(self.policy):
            self.session.forget(slot)

    def expect(self, rows: Rows) -> None:
        """Say which rows steps may ask about."""
        with guarded(self.policy):
            self.session.expect(rows)

    def learn(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> None:
        """Show the states after a layer in a step where every row goes all the way."""
        with guarded(self.policy):
            self.session.learn(layer, x_ND, rows, context)

    def keep(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> Tensor | None:
        """Which rows go on after a layer, bool [N]; None: all, and nothing is said of them.

        Raises:
            ConfigError: rows leave after a layer that the policy does not name.
            PolicyError: it raised an error, or gave something else.
        """
        with guarded(self.policy):
            kept_N = self.session.keep(layer, x_ND, rows, context)
        if kept_N is None:
            return None
        checked_kept(self.policy, kept_N, x_ND, layer)
        if layer not in self.stops:
            raise ConfigError(
                f"{self.policy!r} drops rows after layer {layer}, and its decides_after is "
                f"{self.session.decides_after}; name the layer there, or none to decide after each"
            )
        # Whatever a policy says of rows that may not skip.
        return kept_N if rows.fresh_N is None else kept_N | rows.fresh_N
