"""Whether policies fit a model, and each other; said before the first prompt."""

from __future__ import annotations

from collections.abc import Sequence

from skipstone import policies
from skipstone.engine.beside import Beside, bytes_of, held_by
from skipstone.engine.forward.asked import kept_for, started
from skipstone.engine.forward.skipping import Skipping
from skipstone.engine.guarded import guarded
from skipstone.engine.layout import geometry_of
from skipstone.engine.request import Request
from skipstone.engine.settings import Settings
from skipstone.errors import ConfigError, nearest
from skipstone.memory.kept import Keeping
from skipstone.models.base import Network
from skipstone.quoting import shown
from skipstone.unmask import Need, UnmaskPolicy


def check_fit(network: Network, settings: Settings) -> None:
    """Let policies refuse a model, or each other.

    Raises:
        ConfigError: they do; the message says why.
    """
    geometry = geometry_of(network, 0, 0, 0)
    _check_needs(settings.unmask)
    offset = network.config.reach.score_offset
    if Need.UNSEEN in settings.unmask.needs and offset:
        raise ConfigError(
            f"{settings.unmask!r} asks how probable a token is where it is not seen, which a mask "
            f"in its place says; of this model ({network.config.architecture}), a position is "
            f"scored by the row {-offset} to its left, which tells nothing of a mask there: choose "
            f"another unmask policy"
        )
    skip = Skipping.start(settings.skip, geometry)
    cache = started(settings.cache, geometry)
    if (cache.chooses_in or cache.chooses_mlp_in) and skip is not None:
        raise ConfigError(
            f"{settings.cache!r} and {settings.skip!r} both say which rows a layer computes: one "
            f"adds something to those that it leaves out, the other leaves them as they were; use "
            f"skip=none, or another cache"
        )
    if "keys" in settings.cache.needs and skip is not None:
        raise ConfigError(
            f"{settings.cache!r} and {settings.skip!r}: a row that skips keeps the states that it "
            f"had when it saw other keys, and how alike the states of two steps are tells nothing "
            f"of that; use skip=none, or another cache"
        )
    if "confidence" in settings.cache.needs and skip is not None:
        raise ConfigError(
            f"{settings.cache!r} and {settings.skip!r}: a skip keeps states of the rows that come "
            f"next, and which these are follows from what this step gives; use skip=none, or "
            f"another cache"
        )
    if cache.names_before and skip is not None:
        raise ConfigError(
            f"{settings.cache!r} and {settings.skip!r} both say which rows go on at a layer: what "
            f"one drops the other takes up again; use skip=none, or another cache"
        )


def keeping_of(network: Network, settings: Settings) -> Keeping:
    """What is kept of a request beside its keys and values, for its cache policy."""
    return kept_for(started(settings.cache, geometry_of(network, 0, 0, 0)))


def beside_alone(network: Network, request: Request) -> Beside:
    """What is kept of a request in a batch of its own, beside its keys and values."""
    geometry = geometry_of(network, 1, request.length, len(request.region))
    held = held_by([request], geometry)
    return Beside(request.keeping, bytes_of(held, request.settings.skip, geometry))


def sessions_bytes(network: Network, settings: Settings, prompts: Sequence[Sequence[int]]) -> int:
    """What sessions of policies keep of prompts that are decoded at once, at most."""
    region = [network.config.mask_id] * settings.gen_length
    requests = [Request.of(prompt, region, settings, network.config) for prompt in prompts]
    longest = max(request.length for request in requests)
    geometry = geometry_of(network, len(prompts), longest, settings.gen_length)
    return bytes_of(held_by(requests, geometry), settings.skip, geometry)


def _check_needs(policy: UnmaskPolicy) -> None:
    with guarded(policy):
        unknown = sorted(str(need) for need in policy.needs if need not in list(Need))
    if unknown:
        raise ConfigError(
            f"{policy!r} needs {shown(unknown[0])}, which is unknown; "
            f"{nearest(unknown[0], [need.value for need in Need])}"
        )


def without_graphs(settings: Settings) -> tuple[str, ...]:
    """That layers are not computed as captured graphs, and why."""
    does = {"attention": "looks at how rows attend", "keys": "says which keys rows see"}
    why = [what for need, what in does.items() if need in settings.cache.needs]
    if not why:
        return ()
    cache = policies.CACHE.spell(settings.cache, brief=True)
    return (f"computed without CUDA graphs: cache {cache} {' and '.join(why)}",)
