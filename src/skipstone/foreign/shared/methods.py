"""Some functions of torch, replaced by ones that report their calls.

A function mode looks at every operation. A model calls thousands in a forward, of which a recorder
wants a handful; so these tell of themselves, and the mode rests while the model computes.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from skipstone.foreign.shared.compiled import at_work, skipped, unseen
from skipstone.foreign.shared.functions import Operation

READS = tuple(
    (Tensor, name)
    for name in ("__bool__", "__float__", "__index__", "__int__", "cpu", "item", "numpy", "tolist")
)
"""Methods that wait until the device has a value."""

PICKS = (
    (Tensor, "__getitem__"),
    *((owner, name) for owner in (Tensor, torch) for name in ("gather", "index_select")),
    *((owner, "take_along_dim") for owner in (Tensor, torch)),
)
"""Functions that take rows out of a tensor."""


class Telling:
    """Replaces functions by ones that report each call by code of this thread.

    Ours do not tell: they run with torch functions disabled, as ``Guard.within`` and the function
    mode see to. What is compiled does not either, and nothing is compiled again.
    """

    away = False

    def __init__(
        self,
        functions: Sequence[tuple[Any, str]],
        heard: Callable[[Operation], None],
        ndim: Collection[int] = (),
    ) -> None:
        """Put nothing in any place yet.

        Args:
            functions: the owner and the name of each.
            heard: must not raise.
            ndim: tells only of results with so many dimensions; of all if there are none.
        """
        here, thread = threading.get_ident, threading.get_ident()
        enabled = torch._C._is_torch_function_enabled

        def tell(*operation: Any) -> None:
            heard(Operation(*operation))

        # What keeps Dynamo out takes longer than telling: only where it is at work.
        apart, dynamo = unseen(tell), at_work()

        def telling(function: Callable[..., Any]) -> Callable[..., Any]:
            # Models call these hundreds of times in a forward: no call of ours more than needed.
            @functools.wraps(function)
            def called(*args: Any, **kwargs: Any) -> Any:
                out = function(*args, **kwargs)
                if ndim and getattr(out, "ndim", None) not in ndim:
                    return out
                if enabled() and here() == thread:
                    if dynamo():
                        apart(function, args, kwargs, out)
                    else:
                        heard(Operation(function, args, kwargs, out))
                return out

            skipped(called)
            return called

        self._places = [
            (owner, name, vars(owner).get(name), telling(getattr(owner, name)))
            for owner, name in functions
        ]

    def come(self) -> None:
        """Put those that tell in their places, but where others are by now."""
        for owner, name, own, telling in self._places:
            if vars(owner).get(name) is own:
                setattr(owner, name, telling)

    def leave(self) -> bool:
        """Put the functions back."""
        for owner, name, own, telling in self._places:
            if vars(owner).get(name) is not telling:
                continue
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)
        return True


@contextmanager
def listening(
    functions: Sequence[tuple[Any, str]],
    heard: Callable[[Operation], None],
    ndim: Collection[int] = (),
) -> Generator[None]:
    """Have functions report their calls, as ``Telling`` does."""
    telling = Telling(functions, heard, ndim)
    telling.come()
    try:
        yield
    finally:
        telling.leave()
