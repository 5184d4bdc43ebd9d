"""The position sanitizer: watches other people's decoding code for rows that are mixed up.

    with sanitize(model) as report:
        ids = their_generate(model, prompt)
    print(report.text())

Every torch function that runs inside is followed, so it is slow; it changes no result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from inspect import Signature

from torch import nn

from skipstone.checks import checked
from skipstone.errors import ConfigError
from skipstone.foreign.positions.evidence import Findings
from skipstone.foreign.rows.cache_axis import CacheAxis
from skipstone.foreign.rows.finder import Finder
from skipstone.foreign.sanitizer.sanitizer import Sanitizer
from skipstone.foreign.sanitizer.watch import MaskWatch
from skipstone.foreign.shared.calls import read_call
from skipstone.foreign.shared.compiled import active, compiled_of
from skipstone.foreign.shared.forwards import hook_forward
from skipstone.foreign.shared.functions import Functions
from skipstone.foreign.shared.guard import Guard
from skipstone.foreign.shared.offset import check_offset
from skipstone.foreign.shared.source import source_line
from skipstone.record import Event


class Report:
    """What the sanitizer found; complete when the ``with`` block has ended."""

    def __init__(self, sanitizer: Sanitizer, mask_id: int | None) -> None:
        """Of a sanitizer that has just begun."""
        self.mask_id = mask_id
        """The mask token that is looked for at the end; None if it is not known."""
        self._sanitizer = sanitizer

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        kinds = ", ".join(dict.fromkeys(event.kind for event in self.events)) or "none"
        return f"<Report of {self.forwards} forwards, findings: {kinds}>"

    @property
    def findings(self) -> Findings:
        """What was found, by kind and line."""
        return self._sanitizer.findings

    @property
    def lost(self) -> int:
        """Forwards through which the rows could not be followed from the ids to the outputs."""
        return self._sanitizer.lost

    @property
    def failed(self) -> Counter[str]:
        """Torch functions that were called in a way that could not be followed, and how often."""
        return self._sanitizer.follower.failed

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
            lines.append("the model was never called, so nothing could be followed")
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


class _Hooks:
    """Tells the sanitizer of each call; whatever goes wrong in it is said, and the run goes on."""

    def __init__(
        self,
        sanitizer: Sanitizer,
        finder: Finder,
        masks: MaskWatch | None,
        guard: Guard,
        functions: Functions,
    ) -> None:
        self._sanitizer, self._finder, self._functions = sanitizer, finder, functions
        self._masks, self._guard, self._axis = masks, guard, CacheAxis()

    def before(
        self, signature: Signature, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> None:
        with self._guard.within("reading a call of the model", source_line):
            call = read_call(signature, args, kwargs)
            call = None if call is None else self._axis.before(call)
            located = None if call is None else self._finder.find(call)
            if call is not None and located is not None and not located.samples.twin:
                if self._masks is not None:
                    self._masks.called(located)
                self._finder.found(call, located)
            self._sanitizer.before(call, located)
        self._is_inside(True)

    def after(self, output: object) -> None:
        self._is_inside(False)
        with self._guard.within("reading what the model returned", source_line):
            self._axis.after(output)
            self._sanitizer.after(output)

    def broken(self) -> None:
        self._is_inside(False)

    def _is_inside(self, inside: bool) -> None:
        self._sanitizer.follower.inside = inside
        if inside:
            self._functions.call_begins()
        else:
            self._functions.call_is_over()


@contextmanager
def sanitize(
    model: nn.Module, *, mask_id: int | None = None, score_offset: int | None = None
) -> Generator[Report]:
    """Follow the position of every row through decoding code, and report where rows are mixed up.

    Kinds of findings: ``misaligned_rows`` (rows of different positions combined row by row, or
    written over each other), ``low_precision_similarity``, ``cache_overwritten`` (one cache given
    to the same step twice, overwritten in between), ``ids_behind`` (a call was given ids that the
    loop had gone on from), ``masks_left``.

    Where the tokens that are written show that logits are those of the next token, as Dream's are,
    rows that meet one apart for it are not mixed up: the report says so, as ``score_offset``.

    Positions start at the ids of each call of ``model`` and follow what is done with them; where a
    function is not known they are lost, and nothing is claimed. Results stay the same, bit for bit.
    Rows of one and the same tensor may be combined as one likes: that is done on purpose.

    What runs in compiled code is not seen: a compiled function is one operation like any other.

    Args:
        model: the module that the code calls.
        mask_id: the mask token; by default ``model.config.mask_token_id``.
        score_offset: 0 if a row scores its own position, -1 if the one after it; None goes by the
            tokens that are written.

    Yields:
        The report, which is complete when the block has ended.

    Raises:
        ConfigError: ``model`` is not a torch module, ``mask_id`` is no id, or ``score_offset`` is
            neither 0 nor -1.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model is {type(model).__name__}, must be the torch module that the code calls; "
            f"for our own models use a recorder, their rows cannot be mixed up"
        )
    checked("mask_id", mask_id, int | None)
    check_offset(score_offset)
    if mask_id is None:
        mask_id = getattr(getattr(model, "config", None), "mask_token_id", None)
    sanitizer, guard = Sanitizer(), Guard()
    report = Report(sanitizer, mask_id)
    finder = Finder(sanitizer.follower, -1 if mask_id is None else mask_id)
    masks = None if mask_id is None else MaskWatch(sanitizer.findings, mask_id, finder)
    with ExitStack() as on:
        compiled = compiled_of(model)
        functions = Functions(guard, (sanitizer.follower, finder), within=(sanitizer.follower,))
        hooks = _Hooks(sanitizer, finder, masks, guard, functions)
        hook_forward(on, [*compiled.wrappers, model], hooks, compiled.whole)
        with active(functions):
            yield report
        with guard.within("the end of the report", source_line):
            shifted = sanitizer.next_token.shifted if score_offset is None else score_offset == -1
            sanitizer.findings.settle(shifted=shifted)
            if masks is not None:
                masks.ended()
