"""What user code does to tensors between and inside the calls of a foreign model."""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from skipstone.foreign.attach.logits import LogitSlices
from skipstone.foreign.shared.functions import Operation
from skipstone.foreign.shared.source import caller, place

# Each makes the host wait until the device has the value.
READS = frozenset(
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
"""Functions that bring a value to the host."""


class Watch:
    """Counts host reads by source line, and follows slices of logits to where they are compared."""

    def __init__(self) -> None:
        """See nothing yet."""
        self.inside = False
        """Whether a call of the model is under way."""
        self.reads_between = Counter[str]()
        self.reads_inside = Counter[str]()
        self.logits = LogitSlices()

    def heard(self, operation: Operation) -> None:
        """Look at an operation."""
        if operation.func in READS:
            (self.reads_inside if self.inside else self.reads_between)[place(caller())] += 1
        elif not self.inside:
            self.logits.note(operation.func, operation.args, operation.out)
