"""Where positions come from: the arguments of a forward say which positions its rows are.

Shape letters: B batch, L rows of the call, T positions of the cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skipstone.foreign.positions.places import Ledger, compressed, ranked

_PAST = ("past_key_values", "past_key_value")


@dataclass(frozen=True, eq=False)
class Inputs:
    """The arguments of a forward that concern positions."""

    ids: Tensor
    """Token ids [B, L] or [L]."""
    stated: Tensor | None
    """Places of the rows as an argument states them."""
    stated_by: str
    """Name of that argument."""
    cache: list[Tensor]
    """The tensors of the cache; empty without one."""
    cached: int
    """Positions that the cache has."""
    padded: bool
    """An attention mask hides something, so that positions may be counted from a later token."""


def read_inputs(
    module: nn.Module, args: Sequence[object], kwargs: Mapping[str, object]
) -> Inputs | None:
    """Find the arguments by name; None if there are no token ids among them."""
    try:
        named = _named(module, args, kwargs)
    except TypeError:
        return None  # the call itself is wrong, and will say so
    ids = next((v for v in named.values() if _are_ids(v)), None)
    if not isinstance(ids, Tensor):
        return None
    stated, stated_by = None, ""
    for name in ("cache_position", "position_ids", "replace_position"):
        stated = _stated(name, named.get(name), ids)
        if stated is not None:
            stated_by = name
            break
    cache = [leaf for name in _PAST for leaf in leaves(named.get(name))]
    mask = named.get("attention_mask")
    return Inputs(
        ids=ids,
        stated=stated,
        stated_by=stated_by,
        cache=cache,
        cached=next((leaf.shape[-2] for leaf in cache if leaf.ndim == 4), 0),
        padded=isinstance(mask, Tensor) and mask.ndim == 2 and not bool(mask.all()),
    )


def _named(
    module: nn.Module, args: Sequence[object], kwargs: Mapping[str, object]
) -> dict[str, object]:
    """Arguments by name, those of ``**kwargs`` and ``*args`` among them."""
    bound = inspect.signature(module.forward).bind_partial(*args, **kwargs)
    named = dict[str, object]()
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"{name}{i}": v for i, v in enumerate(value)}
        else:
            named[name] = value
    return named


def _are_ids(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.ndim in (1, 2)
        and value.dtype in (torch.int32, torch.int64)
    )


def _stated(name: str, value: object, ids: Tensor) -> Tensor | None:
    """Places of the ids by one argument; None if it does not give one position for each row."""
    if not isinstance(value, Tensor):
        return None
    positions = value.detach().cpu()
    if name == "replace_position":
        if positions.dtype != torch.bool or positions.ndim != ids.ndim:
            return None
        if bool((positions.sum(-1) != ids.shape[-1]).any()):
            return None
        positions = positions.nonzero()[:, -1].view(*positions.shape[:-1], -1)
    if positions.ndim > ids.ndim or positions.shape[-1] != ids.shape[-1]:
        return None
    return compressed(positions.to(torch.int32).expand(ids.shape))


def leaves(cache: object, depth: int = 4) -> Iterator[Tensor]:
    """The tensors in a cache, whatever holds them."""
    if isinstance(cache, Tensor):
        yield cache
    elif depth and isinstance(cache, (list, tuple)):
        for part in cache:
            yield from leaves(part, depth - 1)
    elif depth and isinstance(cache, Mapping):
        yield from leaves(list(cache.values()), depth - 1)
    elif depth and hasattr(cache, "__dict__"):
        yield from leaves(list(vars(cache).values()), depth - 1)


def places_of(inputs: Inputs, ledger: Ledger) -> tuple[Tensor | None, Tensor | None]:
    """Places of the rows of a call, and where the rows contradict what an argument states.

    What the ids are known to be counts first: a slice of a canvas is that slice, whatever is said
    of it. Then comes the argument, then the length of the cache, then counting from 0.

    Returns:
        The places, and a bool tensor in their shape that is True at contradictions, or None.
    """
    tag = ledger.get(inputs.ids)
    carried = None if tag is None else ranked(tag.places, inputs.ids.ndim)
    told = inputs.stated
    if told is None and not (inputs.cache and not inputs.cached):
        length = inputs.ids.shape[-1]
        told = torch.arange(inputs.cached, inputs.cached + length, dtype=torch.int32)
        told = compressed(told.expand(inputs.ids.shape))
    if carried is None or told is None:
        return (told if carried is None else carried), None
    known = (carried >= 0) & torch.ones_like(told, dtype=torch.bool)
    clash = known & (carried != told)
    checked = inputs.stated is not None and not inputs.padded and bool(clash.any())
    return torch.where(known, carried, told), clash if checked else None
