"""What a leaderboard runs: the fixed list of settings, and which prompts.

The policies themselves say what is in it: their defaults are the published ones, and their ``knob``
names what else is worth comparing. One that another package registers is in it like ours.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from skipstone import policies
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.diff.agreement import Question
from skipstone.engine import Engine, Settings
from skipstone.errors import ConfigError, SkipstoneError
from skipstone.knob import Knob
from skipstone.models.load import Model
from skipstone.policies import Kind
from skipstone.quoting import shown, whole_characters
from skipstone.sweep.grid import Setting
from skipstone.sweep.run import EXACT, exact
from skipstone.tracing import Recorder

BESIDE = "dual"
"""The cache with which unmask and skip policies are run once more."""

ALSO = (
    {"growing_canvas": True},
    {"suffix_window": 32},
    {"skip": "cosine:similarity_dtype=bfloat16"},
)
"""What else is run: shortcuts that are no policy, and known faults of published code."""


@dataclass(frozen=True)
class Contender:
    """One line of the table."""

    kind: str
    """``unmask``, ``cache`` or ``skip``; ``settings`` for what is no policy."""
    policy: str
    """Its name."""
    value: str
    """Where its knob stands; empty at the published default."""
    setting: Setting

    @property
    def published(self) -> bool:
        """Whether the policy is as published."""
        return not self.value


@dataclass(frozen=True)
class Protocol:
    """All lines, and what is none."""

    baseline: Settings
    entries: tuple[Contender, ...]
    left_out: tuple[str, ...]
    """Which settings are not in the table, and why, a line each."""

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Of all lines, in order."""
        return tuple(entry.setting for entry in self.entries)


def protocol(model: Model, base: Settings, *, knobs: bool = True) -> Protocol:
    """Every policy at its default and along its knob, alone and with the dual cache.

    Each policy decodes once before: one that raises would end the runs of all others.

    Args:
        model: those that do not fit it are left out.
        base: lengths and whatever else is the same for all; its policies play no part.
        knobs: whether other values than the published ones are in it.
    """
    trusted = exact(base)
    found, runs, left_out = dict[Settings, Contender](), dict[str, bool](), [*policies.refused()]
    for entry in _entries(trusted, left_out, knobs=knobs):
        settings, policy = entry.setting.settings, f"{entry.kind}.{entry.policy}"
        if settings == trusted or settings in found or not runs.get(policy, True):
            continue
        try:
            engine = Engine(model, settings)
            if policy not in runs:
                runs[policy] = False
                _try(engine)
                runs[policy] = True
        except SkipstoneError as error:
            left_out.append(whole_characters(f"{entry.setting.name}: {error}"))
        else:
            found[settings] = entry
    return Protocol(trusted, tuple(found.values()), tuple(left_out))


def sampled(questions: Sequence[Question], each: int | None) -> tuple[list[Question], int]:
    """Prompts in rounds, one of every family in each.

    Args:
        questions: all that there are.
        each: how many of a family; all if None.

    Returns:
        All prompts in this order, and how many of them are asked for: with more a later call goes
        on where this one ends.
    """
    families = defaultdict[str, list[Question]](list)
    for question in questions:
        families[question.family].append(question)
    ranked = [(rank, q) for members in families.values() for rank, q in enumerate(members)]
    ranked.sort(key=lambda pair: pair[0])
    wanted = len(ranked) if each is None else sum(rank < each for rank, _ in ranked)
    return [question for _, question in ranked], wanted


def short(questions: Sequence[Question], model: Model, gen_length: int) -> list[Question]:
    """Those whose answer is known and leaves room for the EOS; all if there is none such."""
    length = model.text.encode_rendered
    fits = [q for q in questions if q.answer is not None and len(length(q.answer)) < gen_length]
    return fits or list(questions)


def _try(engine: Engine) -> None:
    """Decode and record once, and hold what was decided against the rule, as a diagnosis does."""
    recorder = Recorder()
    engine.generate([0], observer=recorder)
    (record,) = recorder.records
    rule = CommitRule.of(record)
    if rule is not None:
        for step in record.steps:
            rule.commits(step)


def _entries(trusted: Settings, left_out: list[str], *, knobs: bool) -> Iterator[Contender]:
    """All lines, whether or not they fit; of policies that cannot be made, why goes to the rest."""
    for kind in policies.KINDS:
        refused = kind.refused()  # Told already; so is a name that two would have.
        for name, policy in kind.known().items():
            if name in refused:
                continue
            if name == EXACT[kind.name] and kind.name != "unmask":
                continue
            for value, made in _along(kind, name, policy, left_out, knobs=knobs):
                alone = trusted.replace(**cast("dict[str, Any]", {kind.name: made}))
                yield _entry(kind, name, value, alone)
                if kind.name != "cache":
                    yield _entry(kind, name, value, alone.replace(cache=BESIDE))
    for changes in ALSO:
        for cache in (EXACT["cache"], BESIDE):
            settings = trusted.replace(**cast("dict[str, Any]", {"cache": cache, **changes}))
            name, value = next(iter(changes.items()))
            shown = f"{name}={str(value).lower()}"
            yield Contender("settings", shown, "", Setting(_beside(shown, cache), settings))


def _along(
    kind: Kind[Any], name: str, policy: type, left_out: list[str], *, knobs: bool
) -> Iterator[tuple[str, object]]:
    """A policy at its defaults, and at each value of its knob; none that cannot be made so."""
    try:
        default = kind.parse(name)
        hash(default)  # Equal settings are one line.
    except ConfigError as error:
        left_out.append(whole_characters(f"{kind.name}={name}: {error}"))
        return
    except TypeError as error:
        said = f"{kind.name}={name}: {error}; make it a frozen dataclass of settings with a hash"
        left_out.append(whole_characters(f"{said}: @dataclass(frozen=True), a tuple for a list"))
        return
    yield "", default
    knob: object = getattr(policy, "knob", None)
    if knob is None or not knobs:
        return
    if not isinstance(knob, Knob):
        left_out.append(
            f"{kind.name}={name}: its knob is {shown(knob)}, must be a skipstone.knob.Knob"
        )
        return
    for value in knob.values:
        try:
            made = dataclasses.replace(default, **{knob.setting: value})
            _check_spelling(kind, made)
        except Exception as error:  # whatever the code of a policy raises
            why = f"{kind.name}={name}:{knob.setting}={value}: {error}"
            left_out.append(whole_characters(why))
        else:
            yield f"{knob.setting}={value}", made


def _check_spelling(kind: Kind[Any], policy: object) -> None:
    """Refuse a policy whose line would name settings that nobody can give again.

    Raises:
        ConfigError: its text form is read as something else, or not at all.
    """
    text = kind.spell(policy, brief=True)
    try:
        if kind.parse(text) == policy:
            return
    except ConfigError:
        pass
    raise ConfigError(
        f"{shown(text)} cannot be read back as it is written; a value of text must have no comma, "
        f"and no space at its ends"
    )


def _entry(kind: Kind[Any], name: str, value: str, settings: Settings) -> Contender:
    text = f"{kind.name}={kind.spell(getattr(settings, kind.name), brief=True)}"
    cache = EXACT["cache"] if kind.name == "cache" else policies.CACHE.spell(settings.cache)
    return Contender(
        kind.name,
        whole_characters(name),
        value,
        Setting(_beside(text, cache.partition(":")[0]), settings),
    )


def _beside(text: str, cache: str) -> str:
    """A name that says whether there is a cache too, as it comes back from a file."""
    return whole_characters(text if cache == EXACT["cache"] else f"{text} cache={cache}")
