"""What a chat template may cost, charged before it is done.

A template is a program from a checkpoint that somebody published, and it runs in this process. So
every operation whose time or memory depends on the size of its operands is charged first, by an
upper bound, and a render whose budget is used up is refused. No clock is read: the same template
and messages cost the same everywhere.

A unit is about one character, or a few nanoseconds.
"""

from __future__ import annotations

import types

from skipstone.text.costs import (
    ExhaustedError,
    filter_cost,
    lorem_ipsum_cost,
    method_cost,
    operator_cost,
)
from skipstone.text.sizes import CONTAINERS, TEXTS, length, units

BUDGET = 1_000_000
"""What every render may cost: some tenths of a second and a few megabytes."""
BUDGET_OF_A_CHARACTER = 100
"""What each character of the messages adds: templates look at a message many times."""
CALL = 10
"""Units of a call, besides what depends on its arguments."""


class Meter:
    """The budget of one render."""

    def __init__(self, characters: int) -> None:
        """Start with the budget for messages of so many characters."""
        self._left = BUDGET + BUDGET_OF_A_CHARACTER * characters

    def spend(self, cost: int) -> None:
        """Charge.

        Raises:
            ExhaustedError: the budget is used up.
        """
        self._left -= cost
        if self._left < 0:
            raise ExhaustedError("more work than its messages call for")

    def structure(self, value: object) -> None:
        """Charge for every node of a value."""
        for cost in units(value, texts=False):
            self.spend(cost)

    def texts(self, value: object) -> None:
        """Charge for every node and character of a value: to write it, or to compare it."""
        for cost in units(value, texts=True):
            self.spend(cost)

    def items(self, value: object) -> None:
        """Charge for what a copy of a list or a text takes."""
        self.spend(length(value))

    def operator(self, operator: str, left: object, right: object) -> None:
        """Charge a binary operator."""
        self.spend(CALL + operator_cost(operator, left, right))

    def call(self, function: object, arguments: tuple[object, ...]) -> None:
        """Charge a call: of a method of a built-in type, or of anything else."""
        self._arguments(arguments)
        # In the sandbox, str.format is a function that wraps the method.
        function = getattr(function, "__wrapped__", function)
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        built_in = isinstance(owner, (*TEXTS, int, float, *CONTAINERS))
        if built_in and isinstance(function, types.BuiltinMethodType | types.MethodType):
            self.spend(method_cost(name, owner, arguments))
        elif name == "generate_lorem_ipsum":
            self.spend(lorem_ipsum_cost(arguments))

    def filter(self, name: str, value: object, arguments: tuple[object, ...]) -> None:
        """Charge a filter."""
        self._arguments(arguments)
        self.spend(filter_cost(name, value, arguments))

    def test(self, value: object, arguments: tuple[object, ...]) -> None:
        """Charge a test."""
        self.texts((value, *arguments))

    def _arguments(self, arguments: tuple[object, ...]) -> None:
        self.spend(CALL)
        for argument in arguments:
            self.structure(argument)
