"""Whether requests take over keys and values of each other's prompts, and if not, why."""

from __future__ import annotations

from skipstone import policies
from skipstone.cache import NoCache
from skipstone.engine.settings import Settings
from skipstone.reach import Reach


def reuses(settings: Settings, reach: Reach) -> bool:
    """Whether a request takes part in that."""
    return settings.reuse_prefix is not False and _obstacle(settings, reach) is None


def idle(settings: Settings, reach: Reach, prompt: int, reused: int) -> tuple[str, ...]:
    """That it was asked for and did nothing, and why.

    Args:
        settings: of a request.
        reach: of its rows.
        prompt: positions of its prompt.
        reused: how many of them were taken over.
    """
    if not settings.reuse_prefix or reused:
        return ()
    why = _obstacle(settings, reach)
    if why is not None:
        return (f"reuse_prefix=true has no effect: {why}",)
    return (
        f"reuse_prefix=true found nothing: no earlier prompt that this engine still holds begins "
        f"with the same {reach.block_size} tokens, a whole block"
        if prompt >= (reach.block_size or 0)
        else f"reuse_prefix=true has no effect: the prompt of {prompt} tokens has no whole block "
        f"of {reach.block_size}",
    )


def _obstacle(settings: Settings, reach: Reach) -> str | None:
    """Why keys and values of a prompt are no other prompt's; None: they are."""
    if reach.block_size is None:
        return "the model attends in both directions, so what follows changes a prompt's K/V"
    if isinstance(settings.cache, NoCache):
        return "cache=none computes every row in every step"
    if settings.cache.needs:
        cache = policies.CACHE.spell(settings.cache, brief=True)
        return f"cache {cache} computes rows from the middle of the layers on"
    return None
