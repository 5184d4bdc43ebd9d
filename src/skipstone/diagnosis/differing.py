"""What differs in what the sides were given: arguments and their fields, configuration, tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.meanings import INPUTS, Meaning, meaning_of
from skipstone.record import ASSIGNED, LOOP_WAS_GIVEN, WITHIN, Header, RunRecord
from skipstone.record.weights import same_weights

# Of no run's arithmetic.
_IDLE = ("path", "name", "version", "verbose", "log", "use_cache", "device", "output_", "return_")
_ABOUT_A_RUN = re.compile(r"(^|[._])(id|run|trial|label|tag|title|note|seconds|time)$|_at$")
# What means that there is none.
_NONE = ("none", "false", "0", "0.0")
_NO_TOP_P = ("none", "1", "1.0")
# What our engine and other people's loops call by one name, and mean alike.
_SHARED = frozenset(("block_length", "gen_length", "temperature"))


@dataclass(frozen=True)
class InputDifference:
    """One thing that the sides were given, and not alike."""

    name: str
    a: str
    b: str
    source: str = ""
    """The line of B's call."""
    visible: tuple[float, float] | None = None
    """Of a mask of B: how much can be seen, and of how much."""
    plain: bool = False
    """Whether it is a plain argument of some function, and may be of a user's own harness."""
    loop: bool = False
    """Whether the loop was given it, by itself or within an object."""

    @property
    def meaning(self) -> Meaning:
        """What it does."""
        return meaning_of(self.name.removesuffix(ASSIGNED)) or INPUTS

    @property
    def known(self) -> bool:
        """Whether it is known what it does."""
        return meaning_of(self.name.removesuffix(ASSIGNED)) is not None

    @property
    def numbers(self) -> bool:
        """Whether both values are numbers."""
        try:
            return float(self.a) == float(self.a) and float(self.b) == float(self.b)
        except ValueError:
            return False

    @property
    def derived(self) -> bool:
        """Whether the function itself has set the value, so that others may have decided it."""
        return self.name.endswith(ASSIGNED)


def differences(case: Case) -> list[InputDifference]:
    """What the sides were given, and not alike."""
    return [*_dtype(case), *_plain(case), *_tensors(case)]


def _dtype(case: Case) -> Iterator[InputDifference]:
    a, b = case.record_a.header, case.record_b.header
    if a.dtype == b.dtype:
        return
    yield InputDifference("dtype", a.dtype, b.dtype, _called_at(case.record_b))
    # Rounded to another dtype, the same weights have another fingerprint.
    led = case.expected.led is not None
    if led and not case.expected.conforms and same_weights(a.weights, b.weights) is False:
        yield InputDifference("weights", a.weights, b.weights)


def _plain(case: Case) -> Iterator[InputDifference]:
    """Configuration, and arguments and fields of objects that both sides have by the same name."""
    a, b = case.record_a.header, case.record_b.header
    source = _called_at(case.record_b)
    for name in a.environment:
        x, y = a.environment[name], b.environment.get(name)
        if name.startswith("config.") and y is not None and _differ(name, x, y):
            yield InputDifference(name, x, y, source)
    if not case.foreign:
        return
    ours = a.source == "skipstone"
    arguments, met = set(b.environment.get(LOOP_WAS_GIVEN, "").split()), set[tuple[str, ...]]()
    for name, y in b.settings.items():
        x = a.settings.get(name)
        if x is not None and (name in _SHARED or not ours) and _differ(name, x, y):
            met.add((name.removesuffix(ASSIGNED), x, y))
            of_loop = name in arguments and _acts(name)
            yield InputDifference(name, x, y, source, plain=True, loop=of_loop)
    for name, x, y in _within(a, b):
        # Objects hold what was passed on to them; it is said once.
        same = name.rpartition(".")[2], x, y
        if same not in met:
            met.add(same)
            yield InputDifference(name, x, y, source, plain=True, loop=_acts(name))


def _within(a: Header, b: Header) -> Iterator[tuple[str, str, str]]:
    """Fields of objects that the loops were given: the name, and both values."""
    for name, x in a.environment.items():
        y = b.environment.get(name) if name.startswith(WITHIN) else None
        if y is not None and _differ(name, x, y):
            yield name.removeprefix(WITHIN), x, y


def _acts(name: str) -> bool:
    """Whether an argument may do something, for all that its name says."""
    return not name.endswith(ASSIGNED) and _ABOUT_A_RUN.search(name) is None


def _differ(name: str, a: str, b: str) -> bool:
    if a == b or any(word in name.lower() for word in _IDLE):
        return False
    a, b = a.lower(), b.lower()
    last = name.rpartition(".")[2].lower()
    if "none" in (a, b) and not last.endswith(("id", "ids")):
        # An id of zero is one, and a mass of one cuts nothing off.
        nothing = _NO_TOP_P if last == "top_p" else _NONE
        if a in nothing and b in nothing:
            return False
    try:
        return float(a) != float(b)
    except ValueError:
        return a != b


def _tensors(case: Case) -> Iterator[InputDifference]:
    """Tensor arguments of the first step that differs, beside those of the same step of A."""
    step = case.tensors.step
    if not case.foreign or step is None:
        return
    mine = _given(case.record_b, step.forward)
    if case.record_a.header.source == "skipstone":
        # Our engine sees every position of a request, whatever a mask says; or block by block.
        if any((s.entered_age[s.block_stop :] < 0).any() for s in case.record_a.steps):
            return
        for name, found in mine.items():
            if name == "attention_mask" and found.visible and found.visible[0] < found.visible[1]:
                yield found
        return
    other = case.divergence.same_step(step)
    # A call of other rows is given other tensors.
    if other is None or other.rows.size != step.rows.size:
        return
    theirs = _given(case.record_a, other.forward)
    for name in sorted(mine.keys() | theirs.keys()):
        x, y = theirs.get(name), mine.get(name)
        a, b = "not given" if x is None else x.b, "not given" if y is None else y.b
        if a != b and not _sees_all(x) | _sees_all(y):
            source = _called_at(case.record_b) if y is None else y.source
            yield InputDifference(name, a, b, source, None if y is None else y.visible)


def _sees_all(given: InputDifference | None) -> bool:
    """Whether nothing was given, or a mask that hides nothing: the same by another name."""
    if given is None:
        return False
    return given.visible is not None and given.visible[0] == given.visible[1]


def _given(record: RunRecord, forward: int) -> dict[str, InputDifference]:
    """Tensor arguments of a forward, by name."""
    found = dict[str, InputDifference]()
    for event in record.events:
        if event.kind != "given" or event.forward > forward:
            continue
        name, _, text = event.message.partition(" is ")
        numbers = event.numbers
        seen = (numbers["visible"], numbers["total"]) if "visible" in numbers else None
        found[name] = InputDifference(name, "every position", text, event.source, seen)
    return {name: d for name, d in found.items() if d.b != "not given"}


def _called_at(record: RunRecord) -> str:
    return record.header.environment.get("called at", "")
