"""The follower: notes, after each torch function, which positions its result stands for."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from itertools import chain, repeat

import torch
from torch import Tensor

from skipstone.foreign.positions.calls import Clash, TorchCall, outputs_of, tensors_in
from skipstone.foreign.positions.evidence import LOW_PRECISION, Findings
from skipstone.foreign.positions.kinds import TorchFunction, kind_of
from skipstone.foreign.positions.memo import Memo, Positions
from skipstone.foreign.positions.position_map import PositionMap, Ref, Tag, fits, ranked
from skipstone.foreign.shared.calls import INTEGERS
from skipstone.foreign.shared.functions import Operation


class Follower:
    """Keeps the position map: from the ids of each call, positions go where the rows go.

    With findings every tensor is followed, and rows that are mixed up are reported. Without, only
    token ids are followed, between the calls of the model: enough to know where those of the next
    call come from.
    """

    def __init__(self, findings: Findings | None = None) -> None:
        """Know nothing yet."""
        self.position_map = PositionMap()
        self.inside = False
        """Whether a call of the model is under way."""
        self.failed = Counter[str]()
        """Torch functions that were called in a way that could not be followed, and how often."""
        self._findings = findings
        self._kinds = dict[Callable[..., object], TorchFunction]()
        self._memo = Memo(self.position_map)
        self._told = False
        """Whether the rule that is being applied has reported a clash."""

    def heard(self, operation: Operation) -> None:
        """Note what the results of a function stand for."""
        if self._findings is None and self.inside:
            return
        func, args, _, out = operation
        kind = self._kinds.get(func)
        if kind is None:
            kind = self._kinds[func] = kind_of(func)
        if kind.rule is None:
            self.position_map.drop(out)
            if kind.in_place and args:
                self.position_map.drop(args[0])
        elif self._findings is not None or _gives_ids(args[0] if kind.in_place and args else out):
            self._follow(kind, operation)

    def _follow(self, kind: TorchFunction, operation: Operation) -> None:
        func, args, kwargs, out = operation
        key, known = self._memo.key(kind, args, kwargs)
        if not known:
            return
        answer = None if key is None else self._memo.find(key)
        call: TorchCall | None = None
        if answer is None or kind.similarity:
            call = TorchCall(
                func, kind.name, args, kwargs, out, kind.in_place, self.position_map, self._clashed
            )
            if kind.similarity and self._findings is not None:
                self._check_precision(call, self._findings)
        if answer is None:
            assert call is not None
            answer = self._answer(call, key, kind)
        outputs = outputs_of(args, out, in_place=kind.in_place)
        for output, positions in zip(outputs, chain(answer, repeat(None)), strict=False):
            if positions is None:
                self.position_map.drop(output)
            else:
                self._note(kind, args, kwargs, output, positions)

    def _answer(self, call: TorchCall, key: Hashable | None, kind: TorchFunction) -> Positions:
        """What the rule of a call says about its outputs, as far as it can be true of them."""
        self._told = False
        # A call that cannot be followed must not stop the code that is watched.
        try:
            said = () if kind.rule is None else kind.rule(call)
        except (RuntimeError, ValueError, TypeError, IndexError):
            self.failed[call.name] += 1
            return ()
        answer = tuple(
            self.position_map.one(ranked(positions, out.ndim))
            if positions is not None and fits(positions, out)
            else None
            for out, positions in zip(call.outputs, chain(said, repeat(None)), strict=False)
        )
        if not self._told and key is not None:
            self._memo.keep(key, answer)
        return answer

    def _note(
        self,
        kind: TorchFunction,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        out: Tensor,
        positions: Tensor,
    ) -> None:
        """Write down what is known about an output."""
        position_map = self.position_map
        canvas = base = product = None
        if kind.keeps_ids and out.dtype in INTEGERS:
            tags = map(position_map.get, tensors_in((*args, *kwargs.values())))
            canvas = next((t.canvas for t in tags if t is not None and t.canvas is not None), None)
        if kind.hands_on and isinstance(args[0], Tensor):
            of = position_map.base(args[0])
            base = None if of is out else weakref.ref(of)
        if kind.multiplies:
            product = _factors(args, position_map)
        elif kind.hands_on or (kind.sums and _along_rows(args, kwargs)):
            tag = position_map.get(args[0])
            product = None if tag is None else tag.product
        position_map.note(out, Tag(positions, base, canvas, product))

    def _check_precision(self, call: TorchCall, findings: Findings) -> None:
        """A similarity in low precision: by its own function, or as a product over norms."""
        out = call.out
        if not isinstance(out, Tensor):
            return
        if call.name == "cosine_similarity":
            a, b = call.tensor(0, "x1"), call.tensor(1, "x2")
            if a is not None and b is not None and {a.dtype, b.dtype} & LOW_PRECISION:
                dim = call.argument(2, "dim", 1)
                findings.low_precision(call.name, a, b, dim if isinstance(dim, int) else 1, out)
        else:
            tag, divisor = self.position_map.get(call.args[0]), call.tensor(1, "other")
            if tag is None or tag.product is None or self.position_map.get(divisor) is None:
                return
            a, b = (ref() for ref in tag.product)
            if a is not None and b is not None:
                findings.low_precision("product over norms", a, b, -1, out)

    def _clashed(self, clash: Clash) -> None:
        """Rows of different positions met; those of one tensor do so on purpose."""
        self._told = True
        if self._findings is not None and not self.position_map.related(clash.a, clash.b):
            self._findings.misaligned(clash, self.position_map)


def _gives_ids(out: object) -> bool:
    """Whether a function has a result that may be token ids."""
    return any(tensor.dtype in INTEGERS for tensor in tensors_in((out,)))


def _factors(args: tuple[object, ...], position_map: PositionMap) -> tuple[Ref, Ref] | None:
    """The factors of a product in low precision, kept through its sum along rows."""
    if len(args) < 2:
        return None
    a, b = args[0], args[1]
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a is b:
        return None
    low = a.dtype in LOW_PRECISION or b.dtype in LOW_PRECISION
    if not low or position_map.get(a) is None or position_map.get(b) is None:
        return None
    return weakref.ref(a), weakref.ref(b)


def _along_rows(args: tuple[object, ...], kwargs: Mapping[str, object]) -> bool:
    """Whether a sum is that of each row."""
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    return dim in (-1, (-1,))


def whole_canvas(positions: Tensor, length: int) -> bool:
    """Whether rows stand for every position of a canvas, in order."""
    at = positions.reshape(-1, positions.shape[-1]) if positions.ndim else positions.reshape(1, 1)
    return at.shape[-1] == length and bool((at == torch.arange(length)).all())
