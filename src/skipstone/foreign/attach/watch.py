"""What user code does to tensors between and inside the calls of a foreign model."""

from __future__ import annotations

from collections import Counter

from skipstone.foreign.attach.chance import DrawnNumbers
from skipstone.foreign.attach.cost import Reads
from skipstone.foreign.attach.logits import LogitSlices
from skipstone.foreign.shared.functions import Operation
from skipstone.foreign.shared.source import caller


class Watch:
    """Counts host reads by source line, and follows slices of logits to where they are compared."""

    def __init__(self) -> None:
        """See nothing yet."""
        self.inside = False
        """Whether a call of the model is under way."""
        self.reads_between: Reads = Counter()
        self.reads_inside: Reads = Counter()
        self.logits = LogitSlices()
        self.drawn = DrawnNumbers()
        """By the run that began last."""

    def read(self, operation: Operation) -> None:
        """The user's code reads a value."""
        frame = caller(3)  # this one, and that of the function that tells
        reads = self.reads_inside if self.inside else self.reads_between
        reads[frame.f_code.co_filename, frame.f_lineno] += 1

    def heard(self, operation: Operation) -> None:
        """Look at an operation."""
        if not self.inside:
            self.logits.note(operation)
            self.drawn.heard(operation)
