"""Policies by name: the built-in ones, and those that other packages register.

A policy is written ``name`` or ``name:key=value,key=value`` on the command line and in a run spec;
a value alone is that of its first setting, for example ``threshold:0.9`` or ``fixed:random``.
Another package adds its own through the entry-point group ``skipstone.policies``; the entry name is
``kind.name``, for example ``unmask.klass``.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import types
import typing
from collections.abc import Collection, Mapping
from typing import Generic, Literal, TypeVar, cast

from skipstone.cache import (
    CachePolicy,
    D2Cache,
    DelayedCache,
    DllmCache,
    DualCache,
    DyllmCache,
    ElasticCache,
    NoCache,
    OnceCache,
    PrefixCache,
    SparseCache,
    VicinityCache,
)
from skipstone.checks import number, whole_number
from skipstone.errors import ConfigError, SkipstoneError, nearest
from skipstone.quoting import in_words, shown
from skipstone.registry import loaded_class, registered
from skipstone.skip import CosineSkip, NoSkip, RatioSkip, SkipPolicy
from skipstone.unmask import (
    Certainty,
    Credit,
    DinferThreshold,
    DreamThreshold,
    Editing,
    Entropy,
    EntropyBound,
    Factor,
    FallingThreshold,
    Fixed,
    Frechet,
    Hierarchical,
    Klass,
    LocalLeap,
    Margin,
    Quota,
    SlowFast,
    Threshold,
    UnmaskPolicy,
    Wino,
)

P = TypeVar("P", bound="CachePolicy | SkipPolicy | UnmaskPolicy")


@dataclasses.dataclass(frozen=True)
class Kind(Generic[P]):
    """One kind of policy: what each must be, and which there are."""

    name: str
    contract: type
    """What a policy of this kind derives from, or can do."""
    built_in: dict[str, type[P]]

    def known(self) -> dict[str, type[P]]:
        """All policies of this kind by name; what other packages register wrongly is not there."""
        return self._survey()[0]

    def refused(self) -> dict[str, str]:
        """What other packages register wrongly as of this kind: why, by name."""
        return self._survey()[1]

    def _survey(self) -> tuple[dict[str, type[P]], dict[str, str]]:
        found, refused = dict(self.built_in), dict[str, str]()
        for entry in registered():
            owner, dot, name = entry.name.partition(".")
            if owner != self.name or not dot:
                continue
            named = None if (why := self._misnamed(name, found)) else loaded_class(entry)
            if isinstance(named, str):
                why = named
            elif named is not None and not issubclass(named, self.contract):
                why = f"is no {self.name} policy; derive it from {_path(self.contract)}"
            if why:
                refused[name] = f"policy {shown(entry.name)} {why}"
            else:
                found[name] = cast("type[P]", named)
        return found, refused

    def _misnamed(self, name: str, found: Collection[str]) -> str:
        """Why no policy can be called so; empty if one can."""
        if name in found:
            return "takes the name of another policy; rename its entry point"
        spelled = re.fullmatch(r"[\w.-]+", name)
        return "" if spelled else "has no name of letters, digits, _, . and - alone; rename it"

    def names(self) -> list[str]:
        """Names of all policies of this kind; those of other packages are not imported."""
        parted = (entry.name.partition(".") for entry in registered())
        return sorted({*self.built_in, *(name for kind, _, name in parted if kind == self.name)})

    def parse(self, text: str) -> P:
        """Build a policy from ``name`` or ``name:key=value,key=value``.

        Raises:
            ConfigError: the name or a key is unknown, or a value does not fit its field.
        """
        name, _, settings = text.partition(":")
        policies, refused = self._survey()
        if name in refused:
            raise ConfigError(refused[name])
        if name not in policies:
            elsewhere = [kind.name for kind in KINDS if kind is not self and name in kind.names()]
            told = f"there is {elsewhere[0]}={name}" if elsewhere else nearest(name, policies)
            raise ConfigError(f"{self.name} policy {shown(name)} is unknown; {told}")
        return self.check(self._made(name, policies[name], settings))

    def _made(self, name: str, policy: type[P], settings: str) -> P:
        """A policy from its settings as text; what it raises is said in its name."""
        values = self._values(name, policy, settings)
        for key, default in field_defaults(policy).items():
            if default is Required.GIVE_IT and key not in values:
                raise ConfigError(
                    f"setting {key!r} of {shown(name)} must be given; write {key}=VALUE"
                )
        try:
            return policy(**values)
        except SkipstoneError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{self.name} policy {shown(name)} refuses its settings: {in_words(error)}"
            ) from error

    def read(self, value: object) -> P:
        """A policy of this kind, from itself or from its text form.

        Raises:
            ConfigError: it is neither.
        """
        return self.parse(value) if isinstance(value, str) else self.check(value)

    def recorded(self, settings: Mapping[str, str]) -> P | None:
        """The policy of this kind that recorded settings spell.

        Args:
            settings: by name, as texts; they may come from anywhere.

        Returns:
            None if it is not installed here, or refuses what stands there.
        """
        try:
            return self.parse(settings.get(self.name, ""))
        except (ValueError, TypeError, ArithmeticError):
            # ConfigError is one; what checks of another package raise is its own affair.
            return None

    def check(self, value: object) -> P:
        """Return ``value`` if it is a policy of this kind.

        Raises:
            ConfigError: it is not.
        """
        if isinstance(value, type) and value in self.built_in.values():
            raise ConfigError(
                f"{self.name} is the class {value.__name__}; write {value.__name__}()"
            )
        if isinstance(value, type) or not isinstance(value, self.contract):
            raise ConfigError(
                f"{self.name} is {shown(value)}, which is no {self.name} policy; "
                f"`skipstone policies` lists them, and one of your own derives from "
                f"{_path(self.contract)}"
            )
        return cast("P", value)

    def spell(self, policy: object, *, brief: bool = False) -> str:
        """The command-line form, which ``parse`` reads back.

        Args:
            policy: a policy of this kind.
            brief: leave out the settings that have their default.
        """
        # Built-in ones first: others are imported before their names are compared.
        built_in = type(policy) in self.built_in.values()
        for name, candidate in (self.built_in if built_in else self.known()).items():
            if type(policy) is candidate:
                defaults = field_defaults(candidate)
                values = {key: getattr(policy, key) for key in defaults}
                shown = [
                    f"{key}={value}"
                    for key, value in values.items()
                    if not (brief and value == defaults[key])
                ]
                return f"{name}:{','.join(shown)}" if shown else name
        return repr(policy)

    def _values(self, name: str, policy: type[P], settings: str) -> dict[str, object]:
        fields = field_defaults(policy)
        hints = typing.get_type_hints(policy)
        values = dict[str, object]()
        for item in filter(None, settings.split(",")):
            key, equals, value = (part.strip() for part in item.partition("="))
            alone = not equals and key not in fields
            if alone and fields and (not values or len(fields) == 1):
                key, equals, value = next(iter(fields)), "=", key
            if key not in fields:
                rule = nearest(key, fields) if fields else "it has no settings"
                raise ConfigError(
                    f"{self.name} policy {shown(name)} has no setting {shown(key)}; {rule}"
                )
            if not equals:
                raise ConfigError(
                    f"setting {shown(item)} of {shown(name)} has no value; write {key}=VALUE"
                )
            if key in values:
                raise ConfigError(
                    f"setting {shown(key)} of {shown(name)} is given twice; give it once"
                )
            values[key] = convert(value, hints[key], f"{name}:{key}")
        return values


CACHE = Kind[CachePolicy](
    "cache",
    CachePolicy,
    {
        "none": NoCache,
        "prefix": PrefixCache,
        "dual": DualCache,
        "vicinity": VicinityCache,
        "dkv": DelayedCache,
        "once": OnceCache,
        "dllm": DllmCache,
        "dyllm": DyllmCache,
        "elastic": ElasticCache,
        "sparse": SparseCache,
        "d2cache": D2Cache,
    },
)
SKIP = Kind[SkipPolicy](
    "skip", SkipPolicy, {"none": NoSkip, "cosine": CosineSkip, "ratio": RatioSkip}
)
UNMASK = Kind[UnmaskPolicy](
    "unmask",
    UnmaskPolicy,
    {
        "fixed": Fixed,
        "threshold": Threshold,
        "falling_threshold": FallingThreshold,
        "factor": Factor,
        "frechet": Frechet,
        "credit": Credit,
        "hierarchical": Hierarchical,
        "klass": Klass,
        "local_leap": LocalLeap,
        "slow_fast": SlowFast,
        "wino": Wino,
        "margin": Margin,
        "certainty": Certainty,
        "entropy": Entropy,
        "entropy_bound": EntropyBound,
        "dream_threshold": DreamThreshold,
        "dinfer_threshold": DinferThreshold,
        "quota": Quota,
        "editing": Editing,
    },
)
KINDS = (CACHE, UNMASK, SKIP)


def refused() -> tuple[str, ...]:
    """What other packages register and is no policy here, and why, a sentence each."""
    kinds = [kind.name for kind in KINDS]
    said = [why for kind in KINDS for why in kind.refused().values()]
    for entry in registered():
        owner, dot, _ = entry.name.partition(".")
        if owner not in kinds or not dot:
            names = ", ".join(f"{kind}.NAME" for kind in kinds)
            said.append(f"entry point {shown(entry.name)} is of no kind; name it one of {names}")
    return tuple(said)


def _path(contract: type) -> str:
    """Where a contract is imported from."""
    return f"{contract.__module__.rpartition('.')[0]}.{contract.__name__}"


def field_defaults(policy: type) -> dict[str, object]:
    """The settings of a policy class with their defaults, in order."""
    return {field.name: _default(field) for field in dataclasses.fields(policy)}


class Required(enum.Enum):
    """What stands for the default of a setting that has none."""

    GIVE_IT = "must be given"

    def __str__(self) -> str:
        """As lists of policies show it."""
        return self.value


def _default(field: dataclasses.Field[object]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return Required.GIVE_IT if field.default is dataclasses.MISSING else field.default


def convert(text: str, hint: object, where: str) -> object:
    """Turn the text of a setting into its declared type.

    One of bool, int, float, str, Literal, None, or whole numbers (a tuple).

    Raises:
        ConfigError: the text is no value of that type.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if type(None) in options and text.lower() == "none":
            return None
        hint = next(option for option in options if option is not type(None))
        origin = typing.get_origin(hint)
    if origin is Literal:
        if text not in typing.get_args(hint):
            raise ConfigError(f"{where} is {shown(text)}; {nearest(text, typing.get_args(hint))}")
        return text
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{where} is {shown(text)}, must be true or false")
        return text.lower() == "true"
    if origin is tuple:
        return _whole_numbers(text, where)
    if hint in (int, float):
        try:
            return whole_number(text) if hint is int else number(text)
        except ValueError:
            kind = "a whole number" if hint is int else "a number"
            kind += "" if text.isascii() else " in the digits 0 to 9"
            raise ConfigError(f"{where} is {shown(text)}, must be {kind}") from None
    return text


def _whole_numbers(text: str, where: str) -> tuple[int, ...]:
    """The numbers of ``5,17,3``, or of a list as Python and JSON write it; ``none`` has none."""
    listed = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if listed.strip() in ("", "none") and text:
        return ()
    try:
        return tuple(whole_number(part.strip()) for part in listed.split(","))
    except ValueError:
        raise ConfigError(
            f"{where} is {shown(text)}, must be whole numbers separated by commas, like 5,17, or "
            f"none"
        ) from None
