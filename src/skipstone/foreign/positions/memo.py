"""What a rule has said of one call, for all calls like it.

The layers of a model do the same to rows of the same positions, step after step. What a rule says
depends on the positions, shapes and dtypes of its operands, on its plain arguments and, where a
tensor is an index, on what is in it: a call that agrees in all of these is answered from memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from skipstone.foreign.positions.kinds import TorchFunction
from skipstone.foreign.positions.position_map import PositionMap

# An index of more elements is looked at anew each time.
_LARGEST_INDEX = 4096
_MOST = 1 << 16

Positions = Sequence[Tensor | None]
"""Of the outputs of a call, in order, each with as many dimensions as its output."""

_PLAIN = frozenset(
    {
        bool,
        int,
        float,
        str,
        torch.dtype,
        torch.device,
        torch.layout,
        torch.memory_format,
        type(Ellipsis),
        type(None),
    }
)


class Memo:
    """Answers by what they depend on."""

    def __init__(self, position_map: PositionMap) -> None:
        """Remember nothing; the position map knows the positions of operands."""
        self._answers = dict[Hashable, Positions]()
        self._position_map = position_map

    def key(
        self, kind: TorchFunction, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[Hashable | None, bool]:
        """What the answer to a call depends on, and whether positions of any operand are known.

        It is None if it is not known.
        """
        reading = _Reading(self._position_map, [kind, len(args)])
        for value in args[:1]:
            reading.add(value)
        first = len(reading.whole)
        for value in args[1:]:
            reading.add(value)
        for name, value in kwargs.items():
            reading.parts.append(name)
            reading.add(value)
        if not reading.known or reading.odd or kind.ordered:
            return None, reading.known
        if kind.indexed and not reading.add_contents(reading.whole[first:]):
            return None, True
        return tuple(reading.parts), True

    def find(self, key: Hashable) -> Positions | None:
        """The answer to a call like this; None if there was none yet."""
        return self._answers.get(key)

    def keep(self, key: Hashable, answer: Positions) -> None:
        """Remember an answer."""
        if len(self._answers) >= _MOST:
            self._answers.clear()
        self._answers[key] = answer


class _Reading:
    """The arguments of one call, part by part: this runs for every operation of a model."""

    __slots__ = ("_position_map", "known", "odd", "parts", "whole")

    def __init__(self, position_map: PositionMap, parts: list[Hashable]) -> None:
        self.parts = parts
        self.known = False
        """Whether positions of any tensor are known."""
        self.odd = False
        """Whether there is a value that nothing is known of."""
        self._position_map = position_map
        self.whole = list[Tensor]()
        """Tensors of whole numbers or truth values, which may be an index."""

    def add(self, value: object) -> None:
        """One argument."""
        kind = type(value)
        if isinstance(value, Tensor):
            tag = self._position_map.get(value)
            if tag is None:
                self.parts.append(0)
            else:
                # Equal positions are one tensor, which the position map keeps as long as it lives.
                self.parts.append(id(tag.positions))
                self.known = True
            dtype = value.dtype
            self.parts += value.shape, dtype
            if not dtype.is_floating_point:
                self.whole.append(value)
        elif kind in _PLAIN:
            self.parts += kind, value
        elif isinstance(value, (list, tuple)):
            self.parts += kind, len(value)
            for part in value:
                self.add(part)
        elif isinstance(value, slice):
            self.parts.append(slice)
            for part in (value.start, value.stop, value.step):
                self.add(part)
        else:
            self.odd = True

    def add_contents(self, indices: Sequence[Tensor]) -> bool:
        """What is in indices; False if one is too large."""
        for tensor in indices:
            if tensor.numel() > _LARGEST_INDEX:
                return False
            self.parts.append(tensor.detach().cpu().numpy().tobytes())
        return True
