"""Sessions of cache policies that have a say in the midst of a forward, and where it is cut."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, get_args

from skipstone.cache import CacheNeed, CachePolicy, CacheSession
from skipstone.canvas import Geometry, StepContext
from skipstone.engine.guarded import Failed, guarded
from skipstone.errors import ConfigError, nearest
from skipstone.memory.kept import Keeping, Kind
from skipstone.quoting import shown


class Asked(NamedTuple):
    """A session that has a say in the midst of a forward, and the requests that it speaks for."""

    policy: CachePolicy
    session: CacheSession
    context: StepContext
    """Of all of its requests."""
    free: StepContext
    """Of those whose rows it may name: none that is refreshed."""

    def has_failed(self, failed: Failed) -> bool:
        """Whether it has no say any more."""
        return self.context.active[0] in failed


def started(policy: CachePolicy, geometry: Geometry) -> CacheSession:
    """The session of a policy.

    Raises:
        ConfigError: it does not fit the model, or has a say at layers and has not said that it
            would.
        PolicyError: it raised an error.
    """
    with guarded(policy):
        session, needs = policy.start(geometry), policy.needs
        names_before, chooses_in = tuple(session.names_before), tuple(session.chooses_in)
        chooses_mlp_in = tuple(session.chooses_mlp_in)
    unknown = sorted(str(need) for need in needs if need not in get_args(CacheNeed))
    if unknown:
        raise ConfigError(
            f"{policy!r} needs {shown(unknown[0])}, which is unknown; "
            f"{nearest(unknown[0], get_args(CacheNeed))}"
        )
    if session.hides and "keys" not in needs:
        raise ConfigError(
            f"{policy!r} says which keys are visible, and its needs are {sorted(needs)}: add "
            f"'keys' to them"
        )
    does: tuple[tuple[str, tuple[int, ...], int, CacheNeed], ...] = (
        ("names rows before", names_before, 2, "layer_inputs"),
        ("chooses rows in", chooses_in, 1, "layer_changes"),
        ("chooses rows of the MLP in", chooses_mlp_in, 1, "contexts"),
    )
    for what, layers, first, need in does:
        for layer in layers:
            if not first <= layer <= geometry.num_layers:
                raise ConfigError(
                    f"{policy!r} {what} layer {layer}, must be {first} to {geometry.num_layers} in "
                    f"this model"
                )
            if need not in needs:
                raise ConfigError(
                    f"{policy!r} {what} layer {layer}, and its needs are {sorted(needs)}: add "
                    f"{need!r} to them"
                )
    return session


def kept_for(session: CacheSession) -> Keeping:
    """What is kept of the requests of a session, beside keys and values, to do as it says."""
    mlps = session.chooses_mlp_in
    layers: dict[Kind, tuple[int, ...]] = {
        "inputs": session.names_before,
        "changes": session.chooses_in,
        "contexts": mlps,
        "mlps": mlps,
    }
    return frozenset((kind, layer) for kind, where in layers.items() for layer in where)


def judges(session: CacheSession) -> bool:
    """Whether what a forward computes of the rows of its requests may depend on a session."""
    says = session.names_before or session.chooses_in or session.chooses_mlp_in
    return bool(says) or session.hides


def cuts(sessions: Iterable[CacheSession]) -> tuple[int, ...]:
    """Layers with which a span begins, ascending: before and behind each it has a say at."""
    found = set[int]()
    for session in sessions:
        found.update(session.names_before)
        for layer in (*session.chooses_in, *session.chooses_mlp_in):
            found.update((layer, layer + 1))
    return tuple(sorted(found - {1}))
