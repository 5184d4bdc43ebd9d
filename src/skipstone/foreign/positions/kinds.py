"""What is known of a torch function by itself, looked up once for all of its calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skipstone.foreign.positions.calls import plain_name
from skipstone.foreign.positions.rules import HANDS_ON, KEEPS_IDS, RULES, PositionRule

# Their positions follow the content of an index.
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
# Their positions follow the values of what is put in order.
_ORDERED = frozenset({"argsort", "sort", "topk"})


@dataclass(frozen=True, eq=False)
class TorchFunction:
    """A torch function."""

    name: str
    """Without underscores: ``add`` for ``add_`` and ``__add__``."""
    in_place: bool
    """Whether it changes its first argument."""
    rule: PositionRule | None
    """None if positions do not come through it."""
    hands_on: bool
    """Whether its result is a part of its argument, or all of it."""
    keeps_ids: bool
    """Whether ids of a canvas are some of it still."""
    indexed: bool
    """Whether positions follow the content of an index."""
    ordered: bool
    """Whether positions follow values."""
    multiplies: bool
    sums: bool
    similarity: bool
    """Whether it may be one, or end one."""


def kind_of(func: Callable[..., object]) -> TorchFunction:
    """Look at a function."""
    name, in_place = plain_name(func)
    return TorchFunction(
        name=name,
        in_place=in_place,
        rule=RULES.get(name),
        hands_on=name in HANDS_ON,
        keeps_ids=name in KEEPS_IDS or name in HANDS_ON,
        indexed=name in _INDEXED,
        ordered=name in _ORDERED,
        multiplies=name in ("mul", "multiply"),
        sums=name == "sum",
        similarity=name in ("cosine_similarity", "div", "true_divide", "divide"),
    )
