"""Products of two tensors, as einsum would name their axes.

Axes are named by letters of no meaning: an axis that both tensors have and the product has, too, is
one that both run along; one that it has no more was summed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from skipstone.foreign.shared.functions import Operation

Axes = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Contraction:
    """One product of two tensors."""

    left: Tensor
    left_axes: Axes
    right: Tensor
    right_axes: Axes
    out: Tensor
    out_axes: Axes
    factor: float = 1.0
    added: Tensor | None = None
    """What was added to the product, in its axes."""
    added_factor: float = 1.0

    def turned(self) -> Contraction:
        """The same product with its tensors in the other order."""
        return Contraction(
            self.right, self.right_axes, self.left, self.left_axes, self.out, self.out_axes
        )


def contraction(name: str, operation: Operation) -> Contraction | None:
    """The product that a function has made; None if it made none of two tensors.

    Args:
        name: of the function.
        operation: its call.
    """
    if name == "einsum":
        return _einsum(operation)
    if name in _PRODUCTS:
        args = _arguments(("input", "other"), operation)
        return _product(args.get("input"), args.get("mat2", args.get("other")), operation.out)
    if name in _SUMMED:
        args = _arguments(("input", "batch1", "batch2"), operation)
        found = _product(args.get("batch1"), args.get("batch2"), operation.out)
        beta, alpha = args.get("beta", 1), args.get("alpha", 1)
        added = args.get("input")
        if found is None or not isinstance(beta, (int, float)):
            return None
        if not isinstance(alpha, (int, float)) or not isinstance(added, Tensor):
            return None
        added = added if beta else None
        return replace(found, factor=float(alpha), added=added, added_factor=float(beta))
    return None


_PRODUCTS = {"matmul", "__matmul__", "bmm", "mm"}
_SUMMED = {"baddbmm", "baddbmm_"}


def is_weight(x: Tensor) -> bool:
    """Whether a tensor is a parameter, or a view of one."""
    return isinstance(x, nn.Parameter) or isinstance(x._base, nn.Parameter)


def aligned(x: Tensor, axes: Axes, order: Sequence[str]) -> Tensor:
    """A tensor with its axes in another order; those that it does not have are 1.

    Args:
        x: with these ``axes``, which all stand in ``order``.
        axes: of ``x``.
        order: as they should be.
    """
    there = [axes.index(axis) for axis in order if axis in axes]
    x = x.permute(there)
    for at, axis in enumerate(order):
        if axis not in axes:
            x = x.unsqueeze(at)
    return x


def _arguments(names: Sequence[str], operation: Operation) -> dict[str, object]:
    return {**dict(zip(names, operation.args, strict=False)), **operation.kwargs}


def _product(x: object, y: object, out: object) -> Contraction | None:
    """A product of matrices, or of stacks of them."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor) and isinstance(out, Tensor)):
        return None
    if min(x.dim(), y.dim()) < 2:
        return None
    outer = _letters(max(x.dim(), y.dim()) - 2)
    return Contraction(
        *(x, (*_last(outer, x.dim() - 2), "row", "sum")),
        *(y, (*_last(outer, y.dim() - 2), "sum", "column")),
        *(out, (*outer, "row", "column")),
    )


def _last(axes: Axes, count: int) -> Axes:
    return axes[len(axes) - count :]


def _letters(count: int) -> Axes:
    return tuple(f"outer{i}" for i in range(count))


def _einsum(operation: Operation) -> Contraction | None:
    """A product that was written down by its axes."""
    equation, *tensors = operation.args
    if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
        tensors = list(tensors[0])
    if not isinstance(equation, str) or len(tensors) != 2 or "->" not in equation:
        return None
    x, y = tensors
    out = operation.out
    if not (isinstance(x, Tensor) and isinstance(y, Tensor) and isinstance(out, Tensor)):
        return None
    inputs, _, result = equation.replace(" ", "").partition("->")
    of_x, comma, of_y = inputs.partition(",")
    read = [_axes(text, t.dim()) for text, t in ((of_x, x), (of_y, y), (result, out))]
    if not comma or any(axes is None or len(set(axes)) < len(axes) for axes in read):
        return None
    axes_x, axes_y, axes_out = (axes or () for axes in read)
    return Contraction(x, axes_x, y, axes_y, out, axes_out)


def _axes(text: str, dims: int) -> Axes | None:
    """Axes that a part of an equation names; three dots are as many as are left."""
    before, dots, after = text.partition("...")
    left = dims - len(before) - len(after)
    if left < 0 or (left and not dots):
        return None
    # Counted from the last one, as what is broadcast is.
    return (*before, *(f"dots{i}" for i in range(left, 0, -1)), *after)
