"""Hears attention within a layer, in whatever way it is written."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor, nn

from skipstone.foreign.attention.by_hand import ByHand
from skipstone.foreign.attention.call import Attention
from skipstone.foreign.attention.kernels import fused, is_fused
from skipstone.foreign.shared.compiled import at_work, push, take_off
from skipstone.foreign.shared.functions import Functions, Operation
from skipstone.foreign.shared.guard import Guard

# A layer that has a part of such a name attends.
_NAMED = re.compile("attn|attention", re.IGNORECASE)


class Listening:
    """Hears attention while a layer is under way, and nothing else."""

    def __init__(self, guard: Guard) -> None:
        """No layer is under way."""
        self.mode = Functions(guard, (self,))
        self.mode.away = True
        self._calls = list[Attention]()
        self._told = False
        self._by_hand = ByHand()
        self._dynamo: Callable[[], object] = at_work()

    def enter(self, x: Tensor) -> None:
        """A layer begins.

        Args:
            x: the states that go in, [batch, rows, width] or [rows, width].
        """
        self._calls.clear()
        self._by_hand.begin(x.shape[0] if x.dim() > 2 else 1, x.shape[-2] if x.dim() > 1 else 0)
        # What Dynamo is compiling must not see a mode.
        if self.mode.away and not self._dynamo():
            push([self.mode])
            self.mode.away = False

    def leave(self) -> Attention | None:
        """A layer is done; the attention within it, unless there was none or several."""
        self.stop()
        calls, self._calls = self._calls, list[Attention]()
        return calls[0] if len(calls) == 1 else None

    def problem(self, layer: nn.Module, found: Attention | None) -> str:
        """Why attention of a layer is not known, or not how it was computed; told only once.

        Args:
            layer: that is done.
            found: its attention.
        """
        lost = self._by_hand.lost
        if self._told or (found is not None and not lost):
            return ""
        if lost:
            self._told = True
            return f"its scores go through {lost}, which is not followed"
        self._told = True
        if not any(_NAMED.search(f"{n} {type(m).__name__}") for n, m in layer.named_modules()):
            return ""
        return "no torch function that computes it was heard: a kernel of its own, or compiled code"

    def stop(self) -> None:
        """No layer is under way any more."""
        if not self.mode.away:
            take_off(self.mode)
            self.mode.away = True

    def heard(self, operation: Operation) -> None:
        """A function within a layer was called."""
        name = getattr(operation.func, "__name__", "")
        if is_fused(operation.func):
            found = fused(operation)
        else:
            found = self._by_hand.heard(name, operation)
        if found is not None:
            self._calls.append(found)
