"""Hears attention within a layer, in whatever way it is written."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack

from torch import Tensor, nn

from skipstone.foreign.attention.by_hand import ByHand
from skipstone.foreign.attention.call import SeenAttention
from skipstone.foreign.attention.joined import joined
from skipstone.foreign.attention.kernels import FUSED, Kernels
from skipstone.foreign.shared.compiled import active, at_work
from skipstone.foreign.shared.functions import Functions, Operation
from skipstone.foreign.shared.guard import Guard
from skipstone.foreign.shared.methods import Telling
from skipstone.foreign.shared.source import source_line

# A layer that has a part of such a name attends.
_NAMED = re.compile("attn|attention", re.IGNORECASE)

_UNHEARD = "no torch function that computes it was heard: a kernel of its own, or compiled code"


class Listening:
    """Hears attention while a layer is under way, and nothing else.

    Attention may be written out, so a function mode looks at every function that a layer calls,
    which takes as long as the layer itself. But torch's own attention is reported by wrappers,
    under the names by which modelling files call it, and if the mode has seen no other attention,
    it is off. It listens to all layers in the first call of its kind, and to the first layer of
    every call.
    """

    def __init__(self, guard: Guard) -> None:
        """No layer is under way."""
        self._guard = guard
        self._mode = Functions(guard, (self,))
        self._mode.away = True
        self._kinds = set[Hashable]()
        """Of calls that were listened to."""
        self._all = True
        """Whether all layers of this call are listened to, and not only the first one."""
        self._otherwise = False
        """Whether attention was seen that no wrapper reported."""
        self._silent = 0
        """Calls of attention in this layer that the mode has seen and no wrapper has reported."""
        self._under_way = False
        self._calls = list[SeenAttention]()
        self._told = False
        self._looked_at = set[nn.Module]()
        """Layers of which no attention was seen."""
        self._shape = 1, 0
        """Batch and rows of the layer under way."""
        self._by_hand, self._kernels = ByHand(), Kernels()
        self._dynamo: Callable[[], object] = at_work()

    def begin(self, on: ExitStack) -> None:
        """Listen from now on, until ``on`` is closed."""
        on.enter_context(active(self._mode))
        on.enter_context(active(Telling(_names(), self._tells)))

    def call(self, arguments: Mapping[str, object], *, whole: bool) -> None:
        """A call of the model begins.

        Args:
            arguments: by name; which of them there are may decide how attention is computed.
            whole: whether it computes every position of the canvas.
        """
        given = ((n, v if isinstance(v, (bool, str)) else v is None) for n, v in arguments.items())
        kind = frozenset(given), whole
        self._all = kind not in self._kinds
        self._kinds.add(kind)

    def enter(self, number: int, x: Tensor) -> None:
        """A layer begins.

        Args:
            number: counted from 1.
            x: the states that go in, [batch, rows, width] or [rows, width].
        """
        self._calls, self._silent, self._under_way = list[SeenAttention](), 0, True
        self._shape = x.shape[0] if x.dim() > 2 else 1, x.shape[-2] if x.dim() > 1 else 0
        self._by_hand.begin(*self._shape)
        self._kernels.begin(self._shape[1])
        listens = self._all or self._otherwise or number == 1
        # What Dynamo is compiling must not see a mode.
        if listens and self._mode.away and not self._dynamo():
            self._mode.come()
            self._mode.away = False

    def leave(self) -> tuple[SeenAttention, ...]:
        """A layer is done; the calls of attention within it, in order."""
        listened = not self._mode.away
        self.stop()
        if listened and (self._silent > 0 or self._by_hand.lost or self._by_hand.bent):
            self._otherwise = True
        self._by_hand.forget()
        calls, self._calls = self._calls, list[SeenAttention]()
        return joined(calls, *self._shape) if len(calls) > 1 else tuple(calls)

    def problem(self, layer: nn.Module, found: Sequence[SeenAttention]) -> str:
        """Why attention of a layer is not known, or not how it was computed; said only once.

        Args:
            layer: that is done.
            found: its calls of attention.
        """
        if self._told:
            return ""
        bent = self._by_hand.bent or self._kernels.lost
        through = bent if found else self._by_hand.lost
        self._told = bool(through)
        if through:
            return f"its scores go through {through}, which is not followed"
        if found or layer in self._looked_at:
            return ""
        self._looked_at.add(layer)
        names = (f"{name} {type(part).__name__}" for name, part in layer.named_modules())
        self._told = any(_NAMED.search(name) for name in names)
        return _UNHEARD if self._told else ""

    def stop(self) -> None:
        """No layer is under way any more."""
        self._under_way = False
        if not self._mode.away:
            self._mode.leave()
            self._mode.away = True

    def heard(self, operation: Operation) -> None:
        """A function within a layer was called, and the mode listens."""
        name = getattr(operation.func, "__name__", "")
        found = self._kernels.heard(operation) or self._by_hand.heard(name, operation)
        if found is not None:
            self._silent += 1
            self._calls.append(found)

    def _tells(self, operation: Operation) -> None:
        """Torch's own attention was called, whether the mode listens or not."""
        if not self._under_way:
            return
        with self._guard.within("hearing attention", source_line):
            found = self._kernels.heard(operation)
            if found is None:
                return
            if self._mode.away:
                self._calls.append(found)
            else:
                self._silent -= 1


def _names() -> list[tuple[object, str]]:
    """Where modelling files have it: in torch, and in each module that imported it by its name."""
    name = "scaled_dot_product_attention"
    return [
        (module, name)
        for place, module in tuple(sys.modules.items())
        if not place.startswith("torch._") and getattr(module, "__dict__", {}).get(name) is FUSED
    ]
