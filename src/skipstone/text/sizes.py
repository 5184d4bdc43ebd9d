"""How large a value of a template is, counted without copying it."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView

OBJECT = 20
"""Units of a list item or a number, besides its characters."""
NODE = 2
"""Units of looking at one node of a tree."""

TEXTS = (str, bytes)
CONTAINERS = (list, tuple, dict, set, frozenset, KeysView, ValuesView, ItemsView)


class Once(Iterator[object]):
    """What a lazy filter gave, computed and paid for, but read only once as Jinja's own is."""

    def __init__(self, items: list[object]) -> None:
        self._items = items
        self._at = 0

    def __next__(self) -> object:
        if self._at >= len(self._items):
            raise StopIteration
        self._at += 1
        return self._items[self._at - 1]

    @property
    def left(self) -> list[object]:
        """What was not read yet."""
        return self._items[self._at :]


def length(value: object) -> int:
    """Characters or items, nested ones not counted; 1 for anything else."""
    if isinstance(value, Once):
        return len(value.left)
    return len(value) if isinstance(value, (*TEXTS, range, *CONTAINERS)) else 1


def units(value: object, *, texts: bool) -> Iterator[int]:
    """What each node of a value counts, as a tree: sharing hides exponential size.

    Args:
        value: anything.
        texts: count the characters, too.
    """
    waiting = [value]
    while waiting:
        one = waiting.pop()
        yield NODE + (_characters(one) if texts else 0)
        if isinstance(one, Once):
            one = one.left
        if isinstance(one, CONTAINERS):
            waiting.extend(one)
            if isinstance(one, Mapping):
                waiting.extend(one.values())


def size(value: object) -> int:
    """Everything in a value, characters and nodes; a number counts as itself. At least 1."""
    if isinstance(value, bool) or value is None:
        return 1
    if isinstance(value, int | float):
        # NaN is neither more nor less than 1.
        return int(min(abs(value), 1e18)) if abs(value) > 1 else 1
    if isinstance(value, (Once, *CONTAINERS)):
        return sum(units(value, texts=True))
    return max(1, length(value))


def nodes(value: object) -> int:
    """How many texts, numbers, lists and dicts a value is made of."""
    return sum(1 for _ in units(value, texts=False))


def depth(value: object) -> int:
    """How deep lists and dicts are nested."""
    levels, level = 0, [value]
    while level:
        levels += 1
        inner = list[object]()
        for one in level:
            if isinstance(one, Mapping):
                inner.extend(one.values())
            elif isinstance(one, (list, tuple)):
                inner.extend(one)
        level = inner
    return levels


def _characters(value: object) -> int:
    """Characters of one node as text."""
    if isinstance(value, TEXTS):
        return len(value)
    if isinstance(value, int):
        return value.bit_length() // 3
    return OBJECT
