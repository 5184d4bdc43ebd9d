"""What user code does to tensors between and inside the calls of a foreign model.

Shape letters: B batch, L canvas length.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from skipstone.foreign.attach.logits import LogitSlices
from skipstone.foreign.shared.source import caller, place

# Each makes the host wait until the device has the value.
_READS = frozenset(
    {
        Tensor.__bool__,
        Tensor.__float__,
        Tensor.__index__,
        Tensor.__int__,
        Tensor.cpu,
        Tensor.item,
        Tensor.numpy,
        Tensor.tolist,
    }
)
_INTEGERS = (torch.int64, torch.int32)
# A loop writes its canvas a few times between two calls; the last of these is the newest.
_KEPT = 16


class Watch(TorchFunctionMode):
    """Counts host reads by source line, keeps canvases, follows logits. Changes nothing."""

    def __init__(self) -> None:
        """See nothing yet."""
        super().__init__()
        self.inside = False
        """Whether a call of the model is under way."""
        self.reads_between = Counter[str]()
        self.reads_inside = Counter[str]()
        self.logits = LogitSlices()
        self._shape: torch.Size | None = None
        self._canvases = deque[Tensor](maxlen=_KEPT)

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Do what was asked, and look at it."""
        out = func(*args, **(kwargs or {}))
        if func in _READS:
            (self.reads_inside if self.inside else self.reads_between)[place(caller())] += 1
        elif not self.inside:
            self._keep(func, args, out)
            with torch._C.DisableTorchFunction():
                self.logits.note(func, args, out)
        return out

    def expect(self, shape: torch.Size) -> None:
        """From now on keep whole numbers of this shape: one of them may be the next canvas."""
        self._shape = shape
        self._canvases.clear()

    def newest_canvases(self) -> Iterator[Tensor]:
        """Whole numbers [B, L] that were made or written since, the newest first."""
        return reversed(self._canvases)

    def _keep(self, func: Callable[..., object], args: tuple[object, ...], out: object) -> None:
        written = args[0] if func is Tensor.__setitem__ and args else out
        if isinstance(written, Tensor) and written.shape == self._shape:
            if written.dtype in _INTEGERS:
                self._canvases.append(written)
        elif func is Tensor.__setitem__ and isinstance(written, Tensor):
            self._keep_base(written)

    def _keep_base(self, view: Tensor) -> None:
        """A write into a view of the canvas writes the canvas."""
        base = cast("Tensor | None", view._base)
        if base is not None and base.shape == self._shape and base.dtype in _INTEGERS:
            self._canvases.append(base)
