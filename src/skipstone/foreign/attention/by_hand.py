"""Attention that is written out: followed from the product of queries and keys to that with values.

Only tensors that came from such a product are looked at; each function that takes one changes what
is known of it. What is not followed is said, not guessed.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from skipstone.foreign.attention.call import SeenAttention
from skipstone.foreign.attention.contraction import Contraction, contraction
from skipstone.foreign.attention.scores import AttentionScores, scores_of
from skipstone.foreign.shared.functions import Operation

_PRODUCTS = frozenset({"matmul", "__matmul__", "bmm", "mm", "einsum", "baddbmm", "baddbmm_"})
_TIMES = frozenset({"mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"})
_OVER = frozenset({"div", "div_", "divide", "true_divide", "__truediv__", "__itruediv__"})
_PLUS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})
_MINUS = frozenset({"sub", "sub_", "subtract", "__sub__", "__isub__"})
_FILLED = frozenset({"masked_fill", "masked_fill_"})
_CAST = frozenset({"to", "float", "half", "bfloat16", "double", "type", "type_as", "cpu", "cuda"})
_SAME = _CAST | {"contiguous", "clone", "detach", "detach_", "nan_to_num", "nan_to_num_"}
_MOVED = frozenset(
    {"transpose", "transpose_", "permute", "swapaxes", "swapdims", "__get__", "t"}
) | {"movedim", "moveaxis", "unsqueeze"}
_SHAPED = frozenset({"view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "squeeze"})
_SOFTMAX = frozenset({"softmax", "special_softmax", "_softmax"})
_ROW = frozenset({"amax", "max", "sum", "logsumexp", "mean"})
"""One number a row."""
_DROPOUT = frozenset({"dropout", "dropout_", "native_dropout"})


class ByHand:
    """Follows the scores of one layer."""

    def __init__(self) -> None:
        """Nothing is followed yet."""
        self._batch, self._rows = 1, 0
        self._known = dict[int, tuple[weakref.ref[Tensor], AttentionScores | str]]()
        """Of each tensor by its id: the scores that it is, or the name of a sum over them."""
        self._times = dict[int, tuple[weakref.ref[Tensor], Tensor, float]]()
        """Of tensors that are others times a number: those, and the number."""
        self.lost = ""
        """The function after which scores are not followed any more."""
        self.bent = ""
        """The function that did something to scores that is not known."""

    def begin(self, batch: int, rows: int) -> None:
        """A layer begins."""
        self._batch, self._rows = batch, rows
        self.lost = self.bent = ""

    def forget(self) -> None:
        """The layer is done."""
        self._known.clear()
        self._times.clear()

    def heard(self, name: str, operation: Operation) -> SeenAttention | None:
        """A function was called; attention if this was its last product."""
        if name in _PRODUCTS:
            return self._product(name, operation)
        if self._known:
            self._follow(name, operation)
        if name in _TIMES or name in _OVER:
            self._note_times(operation, divides=name in _OVER)
        return None

    def _product(self, name: str, operation: Operation) -> SeenAttention | None:
        found = contraction(name, operation)
        if found is None:
            return None
        for one in (found, found.turned()):
            weights = self._scores(one.left)
            if weights is not None:
                attention = weights.used(one, one.left.shape)
                if attention is None:
                    self._lose(name, weights)
                else:
                    self.bent = self.bent or weights.odd
                return attention
        scores = scores_of(self._unscaled(found), self._batch, self._rows)
        if scores is not None and found.added is not None:
            scores = scores.plus(found.added, found.out.shape, found.added_factor)
        if scores is not None:
            self._know(found.out, scores)
        return None

    def _note_times(self, operation: Operation, *, divides: bool) -> None:
        """Queries may be scaled in place of the scores."""
        x, *others = operation.args
        by, out = others[0] if others else None, operation.out
        if isinstance(by, Tensor) and isinstance(x, (int, float)) and not divides:
            x, by = by, x
        if not isinstance(x, Tensor) or not isinstance(by, (int, float)) or not by:
            return
        if isinstance(out, Tensor) and out is not x and out.dim() > 2:
            self._times[id(out)] = weakref.ref(out), x, 1 / by if divides else float(by)

    def _unscaled(self, found: Contraction) -> Contraction:
        """The same product of tensors that were not scaled, times a number."""
        factor, sides = found.factor, list[Tensor]()
        for side in (found.left, found.right):
            known = self._times.get(id(side))
            if known is not None and known[0]() is side and known[1].dtype == side.dtype:
                factor *= known[2]
            else:
                known = None
            sides.append(side if known is None else known[1])
        return replace(found, left=sides[0], right=sides[1], factor=factor)

    def _follow(self, name: str, operation: Operation) -> None:
        args = list(_tensors(operation))
        given = next((x for x in args if self._scores(x) is not None), None)
        if given is None:
            if name in _SAME:
                self._same_number(args, operation.out)
            return
        before = self._scores(given)
        assert before is not None
        if name in _ROW:
            out = operation.out
            self._know(out[0] if isinstance(out, tuple) else out, name)
            return
        out = given if name == "__setitem__" else operation.out
        if not isinstance(out, Tensor):
            return
        after = self._after(name, before, given, operation)
        if after is None and out.shape == given.shape and out.is_floating_point():
            # One number became another: which is not known.
            after = _odd(before, name)
        if after is None:
            if out.is_floating_point():
                self._lose(name, before)
            return
        self._know(out, after.rounded(out.dtype))

    def _after(
        self, name: str, before: AttentionScores, given: Tensor, operation: Operation
    ) -> AttentionScores | None:
        """What a function has made of scores; None if this is not known."""
        args = operation.args
        if name in _SAME:
            return before
        if name in _TIMES or name in _OVER:
            return self._multiplied(before, _other(operation, given), divides=name in _OVER)
        if name in _PLUS or name in _MINUS:
            return self._plus(name in _MINUS, before, given, operation)
        if name in _FILLED:
            where, value = _named(operation, 1, "mask"), _named(operation, 2, "value")
            return None if _is_weight(before) else before.filled(where, value, given.shape)
        if name == "where" and len(args) == 3:
            return _where(before, given, args)
        if name == "__setitem__":
            return _set(before, given, args)
        return _turned(name, before, given, operation)

    def _multiplied(
        self, before: AttentionScores, other: object, *, divides: bool
    ) -> AttentionScores | None:
        if before.exponential and divides and self._row(other) == "sum":
            return replace(before, shares=True)
        return None if _is_weight(before) else before.scaled(other, divides=divides)

    def _plus(
        self, less: bool, before: AttentionScores, given: Tensor, operation: Operation
    ) -> AttentionScores | None:
        other, alpha = _other(operation, given), operation.kwargs.get("alpha", 1)
        if _is_weight(before) or (operation.args[0] is not given and less):
            return None
        row = self._row(other)
        if less and row in ("amax", "max", "logsumexp"):
            # The same for all of a row: no softmax changes.
            return replace(before, shares=row == "logsumexp")
        factor = float(alpha) if isinstance(alpha, (int, float)) else 1.0
        return before.plus(other, given.shape, -factor if less else factor)

    # What is known of tensors.

    def _know(self, tensor: object, what: AttentionScores | str) -> None:
        if isinstance(tensor, Tensor):
            self._known[id(tensor)] = weakref.ref(tensor), what

    def _what(self, x: object) -> AttentionScores | str | None:
        found = self._known.get(id(x))
        return None if found is None or found[0]() is not x else found[1]

    def _scores(self, x: object) -> AttentionScores | None:
        found = self._what(x)
        return found if isinstance(found, AttentionScores) else None

    def _row(self, x: object) -> str:
        found = self._what(x)
        return found if isinstance(found, str) else ""

    def _same_number(self, args: list[Tensor], out: object) -> None:
        row = next((self._row(x) for x in args if self._row(x)), "")
        if row:
            self._know(out, row)

    def _lose(self, name: str, scores: AttentionScores) -> None:
        self.lost = self.lost or scores.odd or name


def _turned(
    name: str, before: AttentionScores, given: Tensor, operation: Operation
) -> AttentionScores | None:
    """Axes in another order or cut otherwise, a softmax, a dropout."""
    out = operation.out
    assert isinstance(out, Tensor)
    if name in _MOVED:
        func, args, kwargs = operation.func, operation.args[1:], operation.kwargs
        return before.moved(lambda x: func(x, *args, **kwargs), out)
    if name in _SHAPED:
        return before if out.shape == given.shape else before.shaped(given.shape, out.shape)
    if name in _SOFTMAX:
        # Over which axis it is, its output tells who computes it again.
        asked = operation.kwargs.get("dtype")
        dtype = asked if isinstance(asked, torch.dtype) else given.dtype
        return replace(before.rounded(dtype), shares=True, exponential=True)
    if name == "log_softmax":
        return replace(before, shares=True)
    if name in ("exp", "exp_"):
        return replace(before, exponential=True)
    if name in _DROPOUT and before.shares:
        share = _named(operation, 1, "p")
        on = _named(operation, 2, "training" if "training" in operation.kwargs else "train")
        share = float(share) if isinstance(share, (int, float)) else 0.5
        return replace(before, drops=share if on is None or on else before.drops)
    return None


def _is_weight(scores: AttentionScores) -> bool:
    """Whether they went through the softmax: what is done to them now is not the same."""
    return scores.exponential


def _odd(scores: AttentionScores, name: str) -> AttentionScores:
    return replace(scores, odd=scores.odd or name)


def _other(operation: Operation, given: Tensor) -> object:
    """The second operand of a function of two."""
    args = operation.args
    second = args[1] if len(args) > 1 else operation.kwargs.get("other")
    return args[0] if second is given else second


def _named(operation: Operation, at: int, name: str) -> object:
    return operation.args[at] if len(operation.args) > at else operation.kwargs.get(name)


def _where(
    before: AttentionScores, given: Tensor, args: tuple[object, ...]
) -> AttentionScores | None:
    seen, kept, other = args
    if not isinstance(seen, Tensor) or _is_weight(before):
        return None
    hidden = ~seen if kept is given else seen
    return before.filled(hidden, other if kept is given else kept, given.shape)


def _set(
    before: AttentionScores, given: Tensor, args: tuple[object, ...]
) -> AttentionScores | None:
    """Numbers that were written into some places."""
    where, value = args[1], args[2]
    if _is_weight(before):
        return None
    hidden = torch.zeros(given.shape, dtype=torch.bool, device=given.device)
    hidden[where] = True  # pyrefly: ignore
    return before.filled(hidden, value, given.shape)


def _tensors(operation: Operation) -> Iterator[Tensor]:
    """Tensors among the arguments, also those of a list."""
    for x in (*operation.args, *operation.kwargs.values()):
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, (list, tuple)):
            yield from (y for y in x if isinstance(y, Tensor))
