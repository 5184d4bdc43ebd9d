"""The follower: notes, after each torch function, which positions its result stands for."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from itertools import chain, repeat

import torch
from torch import Tensor

from skipstone.foreign.positions.calls import Call, Clash, plain_name, tensors_in
from skipstone.foreign.positions.evidence import LOW_PRECISION, Findings
from skipstone.foreign.positions.memo import Memo
from skipstone.foreign.positions.places import Ledger, Ref, Tag, fits, ranked
from skipstone.foreign.positions.rules import HANDS_ON, KEEPS_IDS, RULES
from skipstone.foreign.shared.calls import INTEGERS
from skipstone.foreign.shared.functions import Operation


class Follower:
    """Keeps the ledger: from the ids of each call, positions go where the rows go.

    With findings every tensor is followed, and rows that are mixed up are told. Without, token ids
    alone are followed, between the calls of the model: enough to know where those of the next call
    come from.
    """

    def __init__(self, findings: Findings | None = None) -> None:
        """Know nothing yet."""
        self.ledger = Ledger()
        self.inside = False
        """Whether a call of the model is under way."""
        self.failed = Counter[str]()
        """Torch functions that were called in a way that could not be followed, and how often."""
        self._findings = findings
        self._memo = Memo()
        self._told = False
        """Whether the rule that is being asked has told of a clash."""

    def heard(self, operation: Operation) -> None:
        """Note what the results of a function stand for."""
        if self._findings is None and self.inside:
            return
        func, args, named, out = operation
        name, in_place = plain_name(func)
        call = Call(func, name, args, named, out, in_place, self.ledger, self._clashed)
        if name in RULES:
            self._follow(call)
        else:
            self.ledger.drop(out)
            if in_place and args:
                self.ledger.drop(args[0])

    def _follow(self, call: Call) -> None:
        if self._findings is not None:
            self._check_precision(call, self._findings)
        operands = list(tensors_in((*call.args, *call.kwargs.values())))
        known = [tag for tag in map(self.ledger.get, operands) if tag is not None]
        if not known or not (self._findings is not None or _gives_ids(call)):
            return
        for out, places in zip(call.outputs, chain(self._answer(call), repeat(None)), strict=False):
            if places is not None and fits(places, out):
                self._note(call, out, ranked(places, out.ndim), known)
            else:
                self.ledger.drop(out)

    def _answer(self, call: Call) -> Sequence[Tensor | None]:
        """What the rule of a call says about its outputs."""
        key = self._memo.key(call)
        answer = self._memo.find(key)
        if answer is not None:
            return answer
        self._told = False
        # A call that cannot be followed must not stop the code that is watched.
        try:
            answer = RULES[call.name](call)
        except (RuntimeError, ValueError, TypeError, IndexError):
            self.failed[call.name] += 1
            return ()
        if not self._told:
            self._memo.keep(key, answer)
        return answer

    def _note(self, call: Call, out: Tensor, places: Tensor, known: list[Tag]) -> None:
        """Write down what is known about an output."""
        ids = out.dtype in INTEGERS and (call.name in KEEPS_IDS or call.name in HANDS_ON)
        run = next((tag.canvas for tag in known if tag.canvas is not None), None) if ids else None
        self.ledger.set(out, Tag(places, self._base(call, out), run, _product(call, self.ledger)))

    def _base(self, call: Call, out: Tensor) -> Ref | None:
        """What an output was cut from."""
        if call.name not in HANDS_ON or not isinstance(call.args[0], Tensor):
            return None
        base = self.ledger.base(call.args[0])
        return None if base is out else weakref.ref(base)

    def _check_precision(self, call: Call, findings: Findings) -> None:
        """A similarity in low precision: by its own function, or as a product over norms."""
        out = call.out
        if not isinstance(out, Tensor):
            return
        if call.name == "cosine_similarity":
            a, b = call.tensor(0, "x1"), call.tensor(1, "x2")
            if a is not None and b is not None and {a.dtype, b.dtype} & LOW_PRECISION:
                dim = call.argument(2, "dim", 1)
                findings.low_precision(call.name, a, b, dim if isinstance(dim, int) else 1, out)
        elif call.name in ("div", "true_divide", "divide"):
            tag, divisor = self.ledger.get(call.args[0]), call.tensor(1, "other")
            if tag is None or tag.product is None or self.ledger.get(divisor) is None:
                return
            a, b = (ref() for ref in tag.product)
            if a is not None and b is not None:
                findings.low_precision("product over norms", a, b, -1, out)

    def _clashed(self, clash: Clash) -> None:
        self._told = True
        if self._findings is not None:
            self._findings.misaligned(clash, self.ledger)


def _gives_ids(call: Call) -> bool:
    """Whether a function has a result that may be token ids."""
    return any(out.dtype in INTEGERS for out in call.outputs)


def _product(call: Call, ledger: Ledger) -> tuple[Ref, Ref] | None:
    """The factors of a product in low precision, kept through its sum along rows."""
    if call.name in ("mul", "multiply") and len(call.args) > 1:
        a, b = call.args[0], call.args[1]
        if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a is b:
            return None
        tags, low = (ledger.get(a), ledger.get(b)), {a.dtype, b.dtype} & LOW_PRECISION
        return (weakref.ref(a), weakref.ref(b)) if None not in tags and low else None
    if call.name in HANDS_ON or (call.name == "sum" and call.argument(1, "dim") in (-1, (-1,))):
        tag = ledger.get(call.args[0])
        return None if tag is None else tag.product
    return None


def whole_canvas(places: Tensor, length: int) -> bool:
    """Whether rows stand for every position of a canvas, in order."""
    at = places.reshape(-1, places.shape[-1]) if places.ndim else places.reshape(1, 1)
    return at.shape[-1] == length and bool((at == torch.arange(length)).all())
