"""Whether policies fit a model, and each other; said before the first prompt."""

from __future__ import annotations

from skipstone import policies
from skipstone.engine.forward.naming import started
from skipstone.engine.forward.runner import stops
from skipstone.engine.layout import geometry_of
from skipstone.engine.settings import Settings
from skipstone.errors import ConfigError
from skipstone.models.base import Network


def check_fit(network: Network, settings: Settings) -> None:
    """Let policies refuse a model, or each other.

    Raises:
        ConfigError: they do; the message says why.
    """
    geometry = geometry_of(network, 0, 0, 0)
    skip = settings.skip.start(geometry)
    if skip is not None:
        stops(skip, geometry.num_layers)
    if started(settings.cache, geometry).names_before and skip is not None:
        raise ConfigError(
            f"{settings.cache!r} and {settings.skip!r} both say which rows go on at a layer: what "
            f"one drops the other takes up again; use skip=none, or another cache"
        )


def without_graphs(settings: Settings) -> tuple[str, ...]:
    """That layers are not computed as captured graphs, and why."""
    if "attention" not in settings.cache.needs:
        return ()
    cache = policies.CACHE.spell(settings.cache, brief=True)
    return (f"computed without CUDA graphs: cache {cache} looks at how rows attend",)
