"""What a rule has said of one call, for all calls like it.

The layers of a model do the same to rows of the same places, step after step. What a rule says
depends on the places, shapes and dtypes of its operands, on its plain arguments and, where a tensor
is an index, on what is in it: a call that agrees in all of these is answered from memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from skipstone.foreign.positions.calls import Call

# Their places follow the content of an index.
_INDEXED = frozenset(
    {
        "gather",
        "getitem",
        "index_copy",
        "index_put",
        "index_select",
        "masked_select",
        "repeat_interleave",
        "scatter",
        "setitem",
        "take_along_dim",
        "tensor_split",
    }
)
# Their places follow the values of what is put in order.
_ORDERED = frozenset({"argsort", "sort", "topk"})
# An index of more elements is looked at anew each time.
_LARGEST_INDEX = 4096
_MOST = 1 << 16

Places = Sequence[Tensor | None]


class Memo:
    """Answers by what they depend on."""

    def __init__(self) -> None:
        """Remember nothing."""
        self._answers = dict[Hashable, Places]()

    def key(self, call: Call) -> Hashable | None:
        """What the answer to a call depends on; None if it cannot be told."""
        if call.name in _ORDERED:
            return None
        parts: list[Hashable] = [call.name, len(call.args)]
        indexed = call.name in _INDEXED
        for i, value in enumerate((*call.args, *call.kwargs.values())):
            part = self._part(call, value, indexed=indexed and i > 0)
            if part is None:
                return None
            parts.append(part)
        parts += call.kwargs
        return tuple(parts)

    def find(self, key: Hashable | None) -> Places | None:
        """The answer to a call like this; None if there was none yet."""
        return None if key is None else self._answers.get(key)

    def keep(self, key: Hashable | None, answer: Places) -> None:
        """Remember an answer."""
        if key is None:
            return
        if len(self._answers) >= _MOST:
            self._answers.clear()
        self._answers[key] = answer

    def _part(self, call: Call, value: object, *, indexed: bool) -> Hashable | None:
        if isinstance(value, Tensor):
            places = call.places(value)
            # The ledger keeps one tensor for all places with one content, as long as it lives.
            known = 0 if places is None else id(places)
            content = b""
            if indexed and not value.is_floating_point():
                if value.numel() > _LARGEST_INDEX:
                    return None
                content = value.detach().cpu().numpy().tobytes()
            return known, value.shape, value.dtype, content
        if isinstance(value, (list, tuple)):
            parts = [self._part(call, v, indexed=indexed) for v in value]
            return None if None in parts else (type(value), *parts)
        if isinstance(value, slice):
            ends = [self._part(call, v, indexed=indexed) for v in _ends(value)]
            return None if None in ends else (slice, *ends)
        if value is None or isinstance(value, _PLAIN):
            return type(value), value
        return None


_PLAIN = (bool, int, float, str, torch.dtype, torch.device, type(Ellipsis), torch.memory_format)


def _ends(value: slice) -> tuple[object, object, object]:
    return value.start, value.stop, value.step
