"""Which setting, switched alone, takes the difference away, and brings it into the other run?

Settings are swapped one at a time. Where no single one explains the difference, all are swapped
and then dropped one after the other, which leaves a set that is minimal in the sense of delta
debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002). Each
run is judged at the first divergent decision, not at the final text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

from skipstone.diagnosis.case import Case
from skipstone.diagnosis.experiment import Rerun, SideName
from skipstone.diff import compare
from skipstone.record import Trace
from skipstone.sentence import Code, Sentence


@dataclass(frozen=True)
class ChangedSetting:
    """One thing that differs between the settings."""

    name: str
    """Setting, or setting and field: ``skip``, ``skip.skip_threshold``."""
    a: str
    b: str

    @property
    def setting(self) -> str:
        """The setting it belongs to."""
        return self.name.partition(".")[0]

    @property
    def said(self) -> Sentence:
        """The two values in words: ``cache: none against dual``."""
        a, b = (Code(text.partition(":")[0]) for text in (self.a, self.b))
        return Sentence("{name}: {a} against {b}", name=Code(self.name), a=a, b=b)


@dataclass(frozen=True)
class Swapped:
    """What swapping found."""

    factors: tuple[ChangedSetting, ...]
    """A smallest set that explains the difference."""
    removed: bool | None
    """Giving B the values of A for these alone restores A's decisions."""
    added: bool | None
    """Giving A the values of B for these alone reproduces B's."""
    ruled_out: tuple[ChangedSetting, ...]

    @property
    def said(self) -> Sentence:
        """All of them in words."""
        first, *others = (factor.said for factor in self.factors)
        return reduce(lambda a, b: Sentence("{first}, {then}", first=a, then=b), others, first)

    @property
    def how(self) -> Sentence:
        """What was done, in words: ``swapped cache: none against dual alone``."""
        template = (
            "swapped {factors} together" if len(self.factors) > 1 else "swapped {factors} alone"
        )
        return Sentence(template, factors=self.said)

    @property
    def outcome(self) -> Sentence:
        """What was done, and whether B then decides as A."""
        template = "{how}: A's decisions" if self.removed else "{how}: not A's decisions"
        return Sentence(template, how=self.how)


def factors_of(case: Case) -> tuple[ChangedSetting, ...]:
    """Everything that differs, policies of the same name field by field."""
    found = list[ChangedSetting]()
    for name, (a, b) in case.runs.settings_differ.items():
        policy_a, _, fields_a = a.partition(":")
        policy_b, _, fields_b = b.partition(":")
        if policy_a == policy_b and fields_a and fields_b:
            mine, theirs = _fields(fields_a), _fields(fields_b)
            for field in mine:
                if mine[field] != theirs.get(field):
                    found.append(ChangedSetting(f"{name}.{field}", mine[field], theirs[field]))
        else:
            found.append(ChangedSetting(name, a, b))
    return tuple(found)


def policy_that_differs(case: Case, kind: Literal["cache", "skip"]) -> Code:
    """The policy of B by its name, as in ``skip=cosine``; that of A where B has none."""
    named = (r.header.settings.get(kind, "") for r in (case.record_b, case.record_a))
    mine, theirs = (text.partition(":")[0] for text in named)
    return Code(f"{kind}={theirs if mine == 'none' else mine}")


def swap(case: Case) -> Swapped | None:
    """Find the smallest set of settings that explains the difference.

    None if nothing differs, or if no run could be made.
    """
    factors = factors_of(case)
    if not factors or case.divergence.first is None:
        return None
    single = [f for f in factors if restores(case, (f,))]
    if len(single) > 1:
        # Several restore A alone: the one that also reproduces B comes first.
        single.sort(key=lambda f: not reproduces(case, (f,)))
    chosen: tuple[ChangedSetting, ...] = tuple(single[:1])
    if not chosen:
        if restores(case, factors) is None:
            return None
        chosen = _smallest(case, factors)
    return Swapped(
        factors=chosen,
        removed=restores(case, chosen),
        added=reproduces(case, chosen),
        ruled_out=tuple(f for f in factors if f not in chosen),
    )


def restores(case: Case, factors: Sequence[ChangedSetting]) -> bool | None:
    """Whether B with A's values of these decides as A does; None if it cannot be tried."""
    trace = case.ask(Rerun("b", changes(case, "b", factors), until=case.divergence.until))
    if trace is None and case.expected.conforms:
        # A trace that keeps to its settings is what A's code gives with these settings.
        rest = [f for f in factors_of(case) if f not in factors]
        trace = case.ask(Rerun("a", changes(case, "a", rest), until=case.divergence.until))
    return None if trace is None else _agrees(case, trace, "a")


def reproduces(case: Case, factors: Sequence[ChangedSetting]) -> bool | None:
    """Whether A with B's values of these decides as B does."""
    trace = case.ask(Rerun("a", changes(case, "a", factors), until=case.divergence.until))
    return None if trace is None else _agrees(case, trace, "b")


def changes(
    case: Case, side: SideName, factors: Sequence[ChangedSetting]
) -> tuple[tuple[str, str], ...]:
    """The settings that give one side the other's values of some factors."""
    record = case.record_a if side == "a" else case.record_b
    texts = dict[str, str]()
    for factor in factors:
        value = factor.b if side == "a" else factor.a
        setting, _, field = factor.name.partition(".")
        if field:
            policy, _, fields = texts.get(setting, record.header.settings[setting]).partition(":")
            values = _fields(fields) | {field: value}
            value = f"{policy}:{','.join(f'{n}={v}' for n, v in values.items())}"
        texts[setting] = value
    return tuple(sorted(texts.items()))


def _agrees(case: Case, trace: Trace, side: SideName) -> bool:
    """Whether a run decides as a side does, up to and at the first divergence."""
    record = case.record_a if side == "a" else case.record_b
    return case.divergence.earlier(compare(record, trace.records[0]).first) is None


def _smallest(case: Case, factors: tuple[ChangedSetting, ...]) -> tuple[ChangedSetting, ...]:
    """Drop what is not needed, one after the other, as long as A is still restored."""
    kept = list(factors)
    for factor in factors:
        rest = [f for f in kept if f is not factor]
        if rest and restores(case, rest):
            kept = rest
    return tuple(kept)


def _fields(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)
