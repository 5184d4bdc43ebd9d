"""One torch function that has just run, as the rules of positions see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skipstone.foreign.positions.position_map import UNKNOWN, PositionMap, spread

_IN_PLACE = frozenset({"setitem", "iand", "ior", "ixor"})


class Clash(NamedTuple):
    """Rows of different positions that met row by row."""

    name: str
    """Of the torch function."""
    a: Tensor
    b: Tensor
    positions_a: Tensor
    positions_b: Tensor
    where: Tensor
    """bool, in the broadcast shape of both positions."""
    computed: Tensor | None
    """The similarity as the code computed it, where it did."""
    written: bool
    """One of them was overwritten, so that its rows cannot be looked at any more."""


@dataclass(frozen=True, eq=False)
class TorchCall:
    """One torch function that has just run."""

    func: Callable[..., Any]
    name: str
    """Without underscores: ``add`` for ``add_`` and ``__add__``."""
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    out: object
    in_place: bool
    position_map: PositionMap
    clashed: Callable[[Clash], None]

    @property
    def outputs(self) -> list[Tensor]:
        """The tensors that got new contents."""
        return outputs_of(self.args, self.out, in_place=self.in_place)

    def argument(self, index: int, name: str, default: object = None) -> object:
        """An argument, however it was passed."""
        if len(self.args) > index:
            return self.args[index]
        return self.kwargs.get(name, default)

    def tensor(self, index: int, name: str) -> Tensor | None:
        """An argument that should be a tensor; None if it is not."""
        found = self.argument(index, name)
        return found if isinstance(found, Tensor) else None

    def dim(self, index: int, default: int, rank: int) -> int:
        """The argument ``dim``, counted from 0."""
        dim = self.argument(index, "dim", default)
        return dim % rank if isinstance(dim, int) else default % rank

    def positions(self, tensor: Tensor | None) -> Tensor | None:
        """Positions of a tensor; None if nothing is known."""
        tag = self.position_map.get(tensor)
        return None if tag is None else tag.positions

    def full(self, tensor: Tensor) -> Tensor:
        """Positions of every single element, unknown ones included."""
        positions = self.positions(tensor)
        if positions is None:
            positions = torch.full((1,) * tensor.ndim, UNKNOWN, dtype=torch.int32)
        return spread(positions, tensor.shape)


def outputs_of(args: tuple[object, ...], out: object, *, in_place: bool) -> list[Tensor]:
    """The tensors to which a function gave new contents."""
    return list(tensors_in(args[:1] if in_place else (out,)))


def tensors_in(values: Iterable[object]) -> Iterator[Tensor]:
    """The tensors among values, and in lists and tuples among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)


def on_host(value: Any) -> Any:
    """An argument with its tensors on the host, where positions are."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(on_host(v) for v in value)
    return value


def plain_name(func: Callable[..., object]) -> tuple[str, bool]:
    """The name a function has in the tables, and whether it changes its first argument."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", ""), False
    plain = name.strip("_")
    changes = name.endswith("_") and not name.endswith("__")
    return plain, changes or plain in _IN_PLACE
