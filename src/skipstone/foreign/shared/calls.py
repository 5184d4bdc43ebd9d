"""Reading a call of a foreign model: its ids, and what was passed.

Shape letters: B batch, N rows of the call.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from skipstone.errors import ConfigError
from skipstone.foreign.shared.source import parameters

_INTEGERS = (torch.int64, torch.int32)


@runtime_checkable
class _Sized(Protocol):
    """A cache that knows how many positions it has."""

    def get_seq_length(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Call:
    """One call, as far as it explains itself."""

    ids: Tensor
    """int64 [B, N], the caller's own tensor."""
    ids_BN: np.ndarray
    """int64, a copy."""
    arguments: dict[str, object]
    """What was passed, by the names of the model's ``forward``."""
    settings: dict[str, str]
    """Plain values passed to the model, over those passed to the function that called it."""

    @property
    def past_length(self) -> int:
        """Positions in the cache that was passed; 0 if there was none."""
        for past in self.arguments.values():
            if isinstance(past, _Sized):
                return past.get_seq_length()
            if pairs := key_values(past):
                return pairs[0][0].shape[-2]
        return 0


def read_call(
    model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], caller: FrameType
) -> Call:
    """What the pre-hook of a model was given.

    Raises:
        ConfigError: no token ids were passed.
    """
    arguments = _bind(model, args, kwargs)
    ids = _ids(model, arguments)
    with torch.no_grad():
        ids_BN = ids.detach().to("cpu", torch.int64, copy=True).numpy()
    plain = parameters(caller) | arguments
    return Call(
        ids=ids if ids.dim() == 2 else ids.unsqueeze(0),
        ids_BN=np.atleast_2d(ids_BN),
        arguments=arguments,
        settings={name: as_text(value) for name, value in plain.items() if _is_plain(value)},
    )


def _bind(
    model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> dict[str, object]:
    """Arguments by name; a name that ``forward`` takes as a keyword only in bulk stands alone."""
    bound = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments
    arguments = dict[str, object]()
    for name, value in bound.items():
        if isinstance(value, dict) and name not in kwargs:
            arguments |= cast("dict[str, object]", value)
        else:
            arguments[name] = value
    return arguments


def _ids(model: nn.Module, arguments: Mapping[str, object]) -> Tensor:
    """The first argument that can be token ids, [N] or [B, N]."""
    for value in arguments.values():
        if isinstance(value, Tensor) and value.dtype in _INTEGERS and value.dim() in (1, 2):
            return value
    raise ConfigError(
        f"{type(model).__name__} was called without token ids (a tensor of whole numbers); attach "
        f"to the module that is called with them"
    )


def _is_plain(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def as_text(value: object) -> str:
    """A setting in its text form."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def key_values(past: object) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer, out of a sequence of pairs or a cache with layers."""
    layers = getattr(past, "layers", past)
    if not isinstance(layers, Sequence):
        return []
    pairs = list[tuple[Tensor, Tensor]]()
    for layer in layers:
        key, value = _pair(layer)
        if not (isinstance(key, Tensor) and isinstance(value, Tensor)):
            return []
        pairs.append((key, value))
    return pairs


def _pair(layer: object) -> tuple[object, object]:
    if isinstance(layer, Sequence):
        return (layer[0], layer[1]) if len(layer) > 1 else (None, None)
    return getattr(layer, "keys", None), getattr(layer, "values", None)
