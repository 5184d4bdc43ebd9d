"""Reading a call of a foreign model: its ids, and what it says of their positions.

Shape letters: B batch, N rows of the call, L canvas length, D width.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from skipstone.foreign.shared.caches import (
    HEADS_FIRST,
    cache_shape,
    key_values,
    leaves,
    said_length,
)

INTEGERS = frozenset({torch.int64, torch.int32})

# Names of arguments, and what they hold, in the words that published code uses. The first are asked
# before all others.
_KNOWN = ("cache_position", "position_ids", "replace_position")
_POSITIONS = re.compile(r"(^|_)(pos|position|positions|pos_ids|idx|index|indices|rows|slots)(_|$)")
_START = re.compile(r"(^|_)(start|offset|begin|start_pos|pos|position)(_|$)")
_NO_IDS = re.compile(r"pos|mask|idx|index|indices|type|label|slot|len|step|segment|seed|rows")
_NO_CACHE = re.compile(r"mask|embed|hidden|bias|label|logit|weight|rotary|freq|cos|sin|noise")


@dataclass(frozen=True, eq=False)
class StatedPositions:
    """What one argument says of the positions of the rows."""

    name: str
    positions_BN: Tensor
    """int64 on the host, [1 or B, N]."""

    @property
    def sure(self) -> bool:
        """Whether the argument can mean nothing else."""
        return self.name in _KNOWN

    @property
    def source(self) -> str:
        """As in ``StepRecord.positions_from``."""
        return "replace_position" if self.name == "replace_position" else "position_ids"


@dataclass(frozen=True, eq=False)
class Call:
    """One call, as far as it explains itself."""

    ids: Tensor | None
    """int [N] or [B, N], the caller's own tensor; None if the model was given embeddings."""
    embeds: Tensor | None
    """[B, N, D], where there are no ids."""
    arguments: dict[str, object]
    """What was passed, by the names of the model's ``forward``."""
    length_axis: int | None = None
    """The dimension of a cache that is its length; None if that is not known."""
    likely_axis: int = HEADS_FIRST
    """The dimension that is taken for it otherwise: as almost everybody keeps keys."""

    @property
    def given(self) -> Tensor | None:
        """Ids or embeddings, whichever there are."""
        return self.embeds if self.ids is None else self.ids

    @property
    def shape(self) -> tuple[int, int]:
        """B and N."""
        found = self.given
        assert found is not None
        shape = tuple(found.shape[:2]) if self.ids is None else tuple(found.shape)
        return (shape[0], shape[1]) if len(shape) == 2 else (1, shape[0])

    @cached_property
    def stated(self) -> StatedPositions | None:
        """Where an argument puts the rows; None if none does."""
        return next(_stated(self.arguments, self.ids, self.shape), None)

    @cached_property
    def cache(self) -> list[Tensor]:
        """The tensors of every cache that was passed, whatever the argument is called."""
        return [leaf for holder in self.holders for leaf in leaves(holder)]

    @property
    def given_cache(self) -> bool:
        """Whether something that may hold a cache was passed, be it empty."""
        return bool(self.holders)

    @cached_property
    def cached(self) -> int:
        """Positions in the cache that was passed; 0 if there was none, or it cannot be known.

        It is a guess where it is not ``length_known``.
        """
        length = said_length(self.holders)
        if length is not None:
            return length
        shape = cache_shape(self.holders)
        axis = self.likely_axis if self.length_axis is None else self.length_axis
        return 0 if shape is None else shape[axis]

    @cached_property
    def length_known(self) -> bool:
        """Whether ``cached`` is no guess from a shape that can be read in two ways."""
        return self.length_axis is not None or said_length(self.holders) is not None

    @cached_property
    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer in the first cache that has them; empty if none has."""
        return next((pairs for holder in self.holders if (pairs := key_values(holder))), [])

    @cached_property
    def holders(self) -> list[object]:
        """Arguments that may hold a cache: no single tensor, and no plain value."""
        return [
            value
            for name, value in self.arguments.items()
            if not _NO_CACHE.search(name) and _may_hold_cache(value)
        ]

    @cached_property
    def padded(self) -> bool:
        """An attention mask hides something: positions may be counted from a later token."""
        mask = self.arguments.get("attention_mask")
        return isinstance(mask, Tensor) and mask.ndim == 2 and not bool(mask.bool().all())


def signature_of(forward: Callable[..., object]) -> inspect.Signature:
    """How a function names its arguments; one that does not say takes them all, without names."""
    try:
        return inspect.signature(forward)
    except (TypeError, ValueError):
        return inspect.signature(_takes_all)


def _takes_all(*args: object, **kwargs: object) -> None:
    """Stands for a function that does not say what it takes."""


def read_call(
    signature: inspect.Signature, args: Sequence[object], kwargs: Mapping[str, object]
) -> Call | None:
    """What a model was called with; None if there are neither ids nor embeddings.

    Args:
        signature: of the function that is called: it names the arguments.
        args: as they were passed.
        kwargs: as they were passed.
    """
    try:
        arguments = _named(signature, args, kwargs)
    except TypeError:
        return None  # the call itself is wrong, and will say so
    ids = _ids(arguments)
    embeds = None if ids is not None else _embeds(arguments)
    return None if ids is None and embeds is None else Call(ids, embeds, arguments)


def host_ids(ids: Tensor) -> np.ndarray:
    """A copy of ids as int64 [B, N]."""
    copied = ids.detach().to("cpu", torch.int64, copy=True)
    return np.atleast_2d(copied.numpy())


def _named(
    signature: inspect.Signature, args: Sequence[object], kwargs: Mapping[str, object]
) -> dict[str, object]:
    """Arguments by name, those of ``**kwargs`` and ``*args`` and of a batch among them."""
    bound = signature.bind_partial(*args, **kwargs)
    named = dict[str, object]()
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"{name}{i}": v for i, v in enumerate(value)}
        else:
            named[name] = value
    for value in list(named.values()):
        if isinstance(value, Mapping) and _ids(named) is None:
            named |= {key: v for key, v in value.items() if isinstance(key, str)}
    return named


def _ids(arguments: Mapping[str, object]) -> Tensor | None:
    """The first argument that can be token ids, [N] or [B, N]; one that is called so comes first.

    Names are asked only where there is a choice: a wrapper may call its ids anything.
    """
    found = {
        name: value
        for name, value in arguments.items()
        if isinstance(value, Tensor) and value.dtype in INTEGERS and value.ndim in (1, 2)
    }
    likely = [value for name, value in found.items() if not _NO_IDS.search(name.lower())]
    if not likely and any(_embedded(value) for value in arguments.values()):
        return None
    return next(iter(likely or found.values()), None)


def _embeds(arguments: Mapping[str, object]) -> Tensor | None:
    """Embeddings [B, N, D]: the argument that is called so, or the first of that shape."""
    found = [(name, v) for name, v in arguments.items() if isinstance(v, Tensor) and _embedded(v)]
    named = [v for name, v in found if "embed" in name]
    return next(iter(named or [v for _, v in found]), None)


def _embedded(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 3


def _stated(
    arguments: Mapping[str, object], ids: Tensor | None, shape: tuple[int, int]
) -> Iterator[StatedPositions]:
    """What each argument says of the positions, the surest first."""
    others = [name for name in arguments if name not in _KNOWN]
    for name in (*_KNOWN, *others):
        value = arguments.get(name)
        if value is None or value is ids:
            continue
        positions = _positions(name, value, shape)
        if positions is not None:
            yield StatedPositions(name, positions)


def _positions(name: str, value: object, shape: tuple[int, int]) -> Tensor | None:
    """Positions [1 or B, N] that a value gives; None if it does not give one for each row."""
    batch, rows = shape
    if isinstance(value, (tuple, list)) and _POSITIONS.search(name):
        value = _of_sequence(value, rows)
    if isinstance(value, slice):
        return _of_slice(value, rows)
    if isinstance(value, int) and not isinstance(value, bool):
        return torch.arange(value, value + rows)[None] if _START.search(name) else None
    if not isinstance(value, Tensor):
        return None
    if value.dtype == torch.bool:
        return _of_mask(value, batch, rows) if "attention" not in name else None
    if value.dtype not in INTEGERS:
        return None
    if value.ndim == 0 or (value.numel() == 1 and rows > 1):
        begin = int(value) if _START.search(name) else -1
        return torch.arange(begin, begin + rows)[None] if begin >= 0 else None
    return _of_tensor(value, batch, rows) if name in _KNOWN or _POSITIONS.search(name) else None


def _of_slice(value: slice, rows: int) -> Tensor | None:
    start, stop = value.start or 0, value.stop
    if not isinstance(start, int) or not isinstance(stop, int) or stop - start != rows:
        return None
    return torch.arange(start, stop)[None]


def _of_sequence(value: Sequence[object], rows: int) -> object:
    """A list of positions, or the two ends of them."""
    numbers = [v for v in value if isinstance(v, int) and not isinstance(v, bool)]
    if len(numbers) != len(value):
        return None
    if len(numbers) == rows:
        return torch.tensor(numbers)
    return slice(*numbers) if len(numbers) == 2 else None


def _of_mask(value: Tensor, batch: int, rows: int) -> Tensor | None:
    """A bool mask over the canvas, True at the rows."""
    marked = value.detach().cpu()
    marked = marked[None] if marked.ndim == 1 else marked
    if marked.ndim != 2 or marked.shape[0] not in (1, batch) or marked.shape[1] == rows:
        return None
    if bool((marked.sum(-1) != rows).any()):
        return None
    return marked.nonzero()[:, -1].view(marked.shape[0], rows)


def _of_tensor(value: Tensor, batch: int, rows: int) -> Tensor | None:
    """Positions one by one; of those that have several axes, such as pictures, the first counts."""
    if value.ndim == 3 and value.shape[1] in (1, batch):
        value = value[0]
    if value.ndim > 2 or value.shape[-1] != rows or (value.ndim == 2 and len(value) > batch):
        return None
    positions = value.detach().to("cpu", torch.int64)
    positions = positions[None] if positions.ndim == 1 else positions
    return positions if bool((positions >= 0).all()) else None


def _may_hold_cache(value: object) -> bool:
    if isinstance(value, (Tensor, str, bytes, int, float, bool, type)) or value is None:
        return False
    if isinstance(value, (list, tuple, Mapping)):
        return True
    return hasattr(value, "__dict__") and not callable(value)


def as_text(value: object) -> str:
    """A setting in its text form."""
    return str(value).lower() if isinstance(value, bool) else str(value)
