"""What user code does to tensors between and inside the calls of a foreign model."""

from __future__ import annotations

from collections import Counter

from skipstone.foreign.attach.logits import LogitSlices
from skipstone.foreign.shared.functions import Operation
from skipstone.foreign.shared.source import caller, place


class Watch:
    """Counts host reads by source line, and follows slices of logits to where they are compared."""

    def __init__(self) -> None:
        """See nothing yet."""
        self.inside = False
        """Whether a call of the model is under way."""
        self.reads_between = Counter[str]()
        self.reads_inside = Counter[str]()
        self.logits = LogitSlices()

    def read(self, operation: Operation) -> None:
        """The user's code reads a value."""
        (self.reads_inside if self.inside else self.reads_between)[place(caller())] += 1

    def heard(self, operation: Operation) -> None:
        """Look at an operation."""
        if not self.inside:
            self.logits.note(operation)
