"""The position sanitizer: watches other people's decoding code for rows that are mixed up.

    with sanitize(model) as report:
        ids = their_generate(model, prompt)
    print(report.text())

Every torch function that runs inside is followed, so it is slow; it changes no result.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from skipstone.errors import ConfigError
from skipstone.foreign.positions.calls import Call, Clash, plain_name, tensors_in
from skipstone.foreign.positions.evidence import LOW_PRECISION, Findings
from skipstone.foreign.positions.places import Ledger, Ref, Tag, fits, ranked
from skipstone.foreign.positions.roots import Inputs, places_of, read_inputs
from skipstone.foreign.positions.rules import HANDS_ON, KEEPS_IDS, RULES
from skipstone.foreign.positions.watch import CacheWatch, CanvasWatch
from skipstone.foreign.shared.compiled import active, unseen
from skipstone.foreign.shared.source import source_line
from skipstone.record import Event

_IDS = frozenset({torch.int32, torch.int64})
_OUTPUTS = ("logits", "hidden_states", "last_hidden_state")


@dataclass(eq=False)
class Report:
    """What the sanitizer found; complete when the ``with`` block has ended."""

    mask_id: int | None
    """The mask token that is looked for at the end; None if it is not known."""
    findings: Findings = field(default_factory=Findings)
    lost: int = 0
    """Forwards through which the rows could not be followed from the ids to the outputs."""
    failed: Counter[str] = field(default_factory=Counter)
    """Torch functions that were called in a way that could not be followed, and how often."""

    @property
    def forwards(self) -> int:
        """Calls of the model that were watched."""
        return self.findings.forward + 1

    @property
    def events(self) -> tuple[Event, ...]:
        """One event for each kind and line of code, in order of first occurrence."""
        return tuple(self.findings.found.values())

    def text(self) -> str:
        """What was found, one line each, and what could not be looked at."""
        lines = [f"findings: {len(self.events)}, forwards watched: {self.forwards}"]
        lines += [_line(event) for event in self.events]
        if not self.forwards:
            lines.append("the model was never called as model(...), so nothing could be followed")
        if self.lost:
            lines.append(f"rows could not be followed through the model in {self.lost} forwards")
        if self.failed:
            names = ", ".join(f"{name} ({count})" for name, count in self.failed.items())
            lines.append(f"positions were lost in unusual calls of {names}")
        if self.mask_id is None:
            lines.append("masks that are left were not looked for: the mask id is not known")
        return "\n".join(lines)


def _line(event: Event) -> str:
    times = "" if event.count == 1 else f", {event.count} times from there on"
    return f"{event.source}: {event.kind} (forward {event.forward}{times}): {event.message}"


class _Follower(TorchFunctionMode):
    """Runs every torch function as it is, then notes what its result stands for."""

    def __init__(self, report: Report, canvases: CanvasWatch) -> None:
        """Follow into ``report``."""
        super().__init__()
        self.ledger = Ledger()
        self.paused = False
        self._report = report
        self._canvases = canvases

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func``; within this method nothing is followed."""
        named = kwargs or {}
        out = func(*args, **named)
        if self.paused:
            return out
        name, in_place = plain_name(func)
        call = Call(func, name, args, named, out, in_place, self.ledger, self._clashed)
        if name in RULES:
            self._follow(call)
        else:
            self.ledger.drop(out)
            if in_place and args:
                self.ledger.drop(args[0])
        if in_place:
            for changed in call.outputs:
                if changed.dtype in _IDS:
                    self._canvases.wrote(changed)
        return out

    def _follow(self, call: Call) -> None:
        self._check_precision(call)
        operands = list(tensors_in((*call.args, *call.kwargs.values())))
        known = [tag for tag in map(self.ledger.get, operands) if tag is not None]
        if not known:
            return
        # A call that cannot be followed must not stop the code that is watched.
        try:
            found = RULES[call.name](call)
        except (RuntimeError, ValueError, TypeError, IndexError):
            found = list[Tensor | None]()
            self._report.failed[call.name] += 1
        for out, places in zip(call.outputs, chain(found, repeat(None)), strict=False):
            if places is not None and fits(places, out):
                self._note(call, out, ranked(places, out.ndim), known)
            else:
                self.ledger.drop(out)

    def _note(self, call: Call, out: Tensor, places: Tensor, known: list[Tag]) -> None:
        """Write down what is known about an output."""
        ids = out.dtype in _IDS and (call.name in KEEPS_IDS or call.name in HANDS_ON)
        run = next((tag.canvas for tag in known if tag.canvas is not None), None) if ids else None
        tag = Tag(places, self._base(call, out), run, _product(call, self.ledger))
        self.ledger.set(out, tag)
        if run is not None:
            self._canvases.holds(out, run)
            if call.name in KEEPS_IDS:
                self._canvases.changed(out, run)

    def _base(self, call: Call, out: Tensor) -> Ref | None:
        """What an output was cut from."""
        if call.name not in HANDS_ON or not isinstance(call.args[0], Tensor):
            return None
        base = self.ledger.base(call.args[0])
        return None if base is out else weakref.ref(base)

    def _check_precision(self, call: Call) -> None:
        """A similarity in low precision: by its own function, or as a product over norms."""
        findings, out = self._report.findings, call.out
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
        self._report.findings.misaligned(clash, self.ledger)


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


@dataclass(eq=False)
class _Hooks:
    """Called before and after each forward of the model."""

    report: Report
    follower: _Follower
    canvases: CanvasWatch
    caches: CacheWatch
    places: Tensor | None = None
    """Of the ids of the forward that is running."""
    ids_shape: tuple[int, ...] = ()

    def before(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]) -> None:
        """The ids of a call get their positions."""
        with _paused(self.follower):
            self.report.findings.forward += 1
            self.places = None
            inputs = read_inputs(module, args, kwargs)
            if inputs is not None:
                self._begin(inputs)

    def _begin(self, inputs: Inputs) -> None:
        ledger = self.follower.ledger
        known = ledger.get(inputs.ids)
        places, clash = places_of(inputs, ledger)
        if places is None:
            return
        if clash is not None and known is not None and inputs.stated is not None:
            self._contradicted(inputs, known.places, inputs.stated, clash)
        run = None if known is None else known.canvas
        if not inputs.cache and inputs.ids.ndim == 2:
            run = self.canvases.called(inputs.ids, run)
        ledger.set(inputs.ids, Tag(places, None if known is None else known.base, run))
        self.caches.called(inputs, places)
        self.places, self.ids_shape = places, inputs.ids.shape

    def _contradicted(self, inputs: Inputs, carried: Tensor, stated: Tensor, clash: Tensor) -> None:
        """The ids come from other places of the canvas than an argument says."""
        a, b = (p.expand(clash.shape)[clash].tolist() for p in (carried, stated))
        self.report.findings.add(
            "misaligned_rows",
            f"the ids stand at position {a[0]} and following in the canvas, and {inputs.stated_by} "
            f"says {b[0]} and following",
            source_line(),
            positions=(tuple(a), tuple(b)),
        )

    def after(
        self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, Any], out: object
    ) -> None:
        """Row i of the outputs is row i of the ids, even if the way between was not followed."""
        if self.places is None:
            return
        lost = False
        with _paused(self.follower):
            for tensor in _outputs(out):
                rank = self.places.ndim
                if tensor.shape[:rank] != self.ids_shape or tensor.ndim <= rank:
                    continue
                if self.follower.ledger.get(tensor) is None:
                    lost = True
                    places = self.places.view(*self.places.shape, *(1,) * (tensor.ndim - rank))
                    self.follower.ledger.set(tensor, Tag(places))
        self.report.lost += lost


def _outputs(out: object) -> Iterator[Tensor]:
    """Logits and states in what a model returned."""
    if isinstance(out, Tensor):
        yield out
        return
    for name in _OUTPUTS:
        found = out.get(name) if isinstance(out, Mapping) else getattr(out, name, None)
        yield from tensors_in((found,))


@contextmanager
def _paused(follower: _Follower) -> Generator[None]:
    """What we compute ourselves is not followed."""
    follower.paused = True
    try:
        yield
    finally:
        follower.paused = False


@contextmanager
def sanitize(model: nn.Module, *, mask_id: int | None = None) -> Generator[Report]:
    """Follow the position of every row through decoding code, and report where rows are mixed up.

    Kinds of findings: ``misaligned_rows`` (rows of different positions combined row by row, or
    written over each other), ``low_precision_similarity``, ``cache_overwritten`` (one cache given
    to the same step twice, overwritten in between), ``masks_left``.

    Positions start at the ids of each call of ``model`` and follow what is done with them; where a
    function is not known they are lost, and nothing is claimed. Results stay the same, bit for bit.
    Rows of one and the same tensor may be combined as one likes: that is done on purpose.

    Args:
        model: the module that the code calls, as ``model(...)``.
        mask_id: the mask token; by default ``model.config.mask_token_id``.

    Yields:
        The report, which is complete when the block has ended.

    Raises:
        ConfigError: ``model`` is not a torch module.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model is {type(model).__name__}, must be the torch module that the code calls; "
            f"for our own models use a recorder, their rows cannot be mixed up"
        )
    if mask_id is None:
        mask_id = getattr(getattr(model, "config", None), "mask_token_id", None)
    report = Report(mask_id)
    canvases = CanvasWatch(report.findings, mask_id)
    follower = _Follower(report, canvases)
    hooks = _Hooks(report, follower, canvases, CacheWatch(report.findings))
    handles = [
        model.register_forward_pre_hook(unseen(hooks.before), with_kwargs=True),
        model.register_forward_hook(unseen(hooks.after), with_kwargs=True),
    ]
    try:
        with active(follower):
            yield report
        canvases.end()
    finally:
        for handle in handles:
            handle.remove()
