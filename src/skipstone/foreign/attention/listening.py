"""Hears attention within a layer, in whatever way it is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from skipstone.foreign.attention.by_hand import ByHand
from skipstone.foreign.attention.call import Attention
from skipstone.foreign.attention.joined import joined
from skipstone.foreign.attention.kernels import Kernels
from skipstone.foreign.shared.compiled import at_work, push, take_off
from skipstone.foreign.shared.functions import Functions, Operation
from skipstone.foreign.shared.guard import Guard

# A layer that has a part of such a name attends.
_NAMED = re.compile("attn|attention", re.IGNORECASE)

_UNHEARD = "no torch function that computes it was heard: a kernel of its own, or compiled code"


class Listening:
    """Hears attention while a layer is under way, and nothing else."""

    def __init__(self, guard: Guard) -> None:
        """No layer is under way."""
        self.mode = Functions(guard, (self,))
        self.mode.away = True
        self._calls = list[Attention]()
        self._told = False
        self._looked_at = set[nn.Module]()
        """Layers that nothing was heard of."""
        self._shape = 1, 0
        """Batch and rows of the layer under way."""
        self._by_hand, self._kernels = ByHand(), Kernels()
        self._dynamo: Callable[[], object] = at_work()

    def enter(self, x: Tensor) -> None:
        """A layer begins.

        Args:
            x: the states that go in, [batch, rows, width] or [rows, width].
        """
        self._calls.clear()
        self._shape = x.shape[0] if x.dim() > 2 else 1, x.shape[-2] if x.dim() > 1 else 0
        self._by_hand.begin(*self._shape)
        self._kernels.begin(self._shape[1])
        # What Dynamo is compiling must not see a mode.
        if self.mode.away and not self._dynamo():
            push([self.mode])
            self.mode.away = False

    def leave(self) -> tuple[Attention, ...]:
        """A layer is done; the calls of attention within it, in order."""
        self.stop()
        self._by_hand.forget()
        calls, self._calls = self._calls, list[Attention]()
        return joined(calls, *self._shape) if len(calls) > 1 else tuple(calls)

    def problem(self, layer: nn.Module, found: Sequence[Attention]) -> str:
        """Why attention of a layer is not known, or not how it was computed; told only once.

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
        if not self.mode.away:
            take_off(self.mode)
            self.mode.away = True

    def heard(self, operation: Operation) -> None:
        """A function within a layer was called."""
        name = getattr(operation.func, "__name__", "")
        found = self._kernels.heard(operation) or self._by_hand.heard(name, operation)
        if found is not None:
            self._calls.append(found)
