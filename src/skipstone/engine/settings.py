"""All settings of a run in one value: it is printed, compared, recorded and parsed as one thing."""

from __future__ import annotations

import copy
import dataclasses
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, TypeVar, Unpack, cast

from skipstone import policies
from skipstone.cache import CachePolicy, DualCache
from skipstone.checks import check_fields, checked
from skipstone.errors import ConfigError, nearest
from skipstone.quoting import cut, shown
from skipstone.skip import NoSkip, SkipPolicy
from skipstone.unmask import Threshold, UnmaskPolicy

Budget = Literal["finish", "stop"]
StopAfter = Literal["token", "block"]
V = TypeVar("V")

# Far more than any model has positions; a typing error must not end in another library's error.
_MOST = 1 << 20
_USUAL_BLOCK = 32
_OF_LOAD = ("device", "dtype", "local_files_only")


ALIASES = {"max_new_tokens": "gen_length"}
"""Other names of settings, by which they may be given."""


class SettingsFields(TypedDict, total=False):
    """The fields of ``Settings`` as keywords; a policy may be given in its command-line form."""

    cache: CachePolicy | str
    unmask: UnmaskPolicy | str
    skip: SkipPolicy | str
    gen_length: int
    max_new_tokens: int
    """The same as ``gen_length``."""
    block_length: int | None
    steps: int | None
    temperature: float
    top_p: float | None
    top_k: int | None
    seed: int | None
    eos_stop: bool
    budget: Budget
    growing_canvas: bool
    absolute_blocks: bool
    stop_after: StopAfter
    stop_ids: Sequence[int]
    reuse_prefix: bool | None
    suffix_window: int | None


@dataclass(frozen=True, init=False)
class Settings:
    """How to decode. Frozen; ``replace`` makes a changed copy.

    Policies may be given in their command-line form:
    ``Settings(cache="dual", unmask="threshold:value=0.9", gen_length=64)``.

    Fields: ``cache`` (which rows a step recomputes), ``unmask`` (which masks it commits), ``skip``
    (which rows leave early), ``gen_length`` (new positions), ``block_length`` (decoded together),
    ``steps`` (over all blocks; None: one for each new position), ``temperature`` (0: greedy),
    ``top_p`` and ``top_k`` (which tokens are possible), ``seed``, ``eos_stop`` (end at EOS),
    ``budget`` (``finish``, or ``stop`` after the steps), ``growing_canvas`` (masks of one block
    at a time), ``absolute_blocks`` (cut from position 0), ``stop_after`` (a ``token``, or its
    ``block``), ``stop_ids`` (that end the answer too), ``reuse_prefix`` (take over
    the keys and values of a prompt's beginning), ``suffix_window`` (positions right of a block that
    are computed and seen).
    """

    cache: CachePolicy = DualCache()
    """Which rows are recomputed in a step."""
    unmask: UnmaskPolicy = Threshold()
    """Which masks are committed in a step."""
    skip: SkipPolicy = NoSkip()
    """Which rows leave before the deep layers."""
    gen_length: int = 128
    """New positions after the prompt; also ``max_new_tokens``."""
    block_length: int | None = None
    """Positions decoded together, from left to right; the last block may be shorter. Where
    attention is causal over blocks, it is over these. None: the model's block, or 32."""
    steps: int | None = None
    """Steps over all blocks; None is one for each new position. Fixed schedule or budget stop."""
    temperature: float = 0.0
    """0 takes the most probable token; above, Gumbel noise in float64 samples."""
    top_p: float | None = None
    """Only the most probable tokens are possible, up to the one with which they reach this."""
    top_k: int | None = None
    """Only so many tokens are possible, and those that are as probable as the last of them. With
    ``top_p`` or ``top_k``, confidence, margin and entropy are those of what is left of the
    distribution at this temperature; at temperature 0, at 1. Cut by top_p first."""
    seed: int | None = None
    """Of temperature or random order. The same for each prompt of a batch, so that a prompt gives
    the same tokens alone."""
    eos_stop: bool = True
    """Stop a request once EOS is committed and nothing left of it is masked."""
    budget: Budget = "finish"
    """``finish`` decodes until no mask is left; ``stop`` ends each block after its steps."""
    growing_canvas: bool = False
    """There are masks of one block at a time, as in iLLaDA's ``var_generate``: nothing lies right
    of the block that is decoded. Else those of all blocks are there from the beginning."""
    absolute_blocks: bool = False
    """Blocks lie on multiples of ``block_length`` from position 0, and the first one begins with
    the end of the prompt; else they are counted from the prompt's end. Those of a block-causal
    model always do."""
    stop_after: StopAfter = "token"
    """End once EOS, or what else ends the answer, is committed and nothing left of it is masked
    (``token``), or once the whole block is decided in which that is so (``block``)."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end the answer as EOS does; also without ``eos_stop``."""
    reuse_prefix: bool | None = None
    """Whether a prompt takes over the keys and values of whole blocks with which an earlier one of
    this engine begins as well. None: wherever they are the same, which is where attention is causal
    over blocks."""
    suffix_window: int | None = None
    """Of what is right of a block, only so many positions are there: the others are neither
    computed nor seen while it is decoded, as in DPad. Positions keep their numbers, and the window
    moves with the block. 0 is ``growing_canvas``. None: all are there."""

    # No annotation: it is no setting, and plays no part in what is equal, printed or recorded.
    stated = frozenset[str]()
    """Names of what was given; an engine takes the others from its model, which may recommend
    some."""

    def __init__(self, **settings: Unpack[SettingsFields]) -> None:
        """Take settings by name.

        Raises:
            ConfigError: a name is unknown, or a value is of the wrong type or out of range.
        """
        given = canonical(settings)
        self._fill(policies.field_defaults(type(self)), given, frozenset(given))

    def _fill(
        self, base: Mapping[str, object], changes: Mapping[str, object], stated: frozenset[str]
    ) -> None:
        """Take values, and check them."""
        for name, value in {**base, **changes}.items():
            if name not in base:
                raise ConfigError(f"setting {shown(name)} is unknown; {_meant(name)}")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "stated", stated)
        self._check()

    def _check(self) -> None:
        """Refuse values outside their range; texts become policies."""
        check_fields(self)
        for kind in policies.KINDS:
            object.__setattr__(self, kind.name, kind.read(getattr(self, kind.name)))
        object.__setattr__(self, "stop_ids", _checked_ids(self.stop_ids))
        for name in ("gen_length", "block_length"):
            if (count := getattr(self, name)) is not None:
                _check_count(name, count)
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature is {self.temperature}, must be 0 or more, and finite")
        self._check_steps()
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}, must be above 0 and at most 1")
        if self.top_k is not None:
            _check_count("top_k", self.top_k)
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {shown(self.seed)}, must be between 0 and 2**63 - 1")
        if self.suffix_window is not None and not 0 <= self.suffix_window <= _MOST:
            raise ConfigError(
                f"suffix_window is {shown(self.suffix_window)}, must be none (all positions), or "
                f"between 0 and {_MOST}"
            )

    def _check_steps(self) -> None:
        """Refuse steps that the blocks or the unmask policy have no use for."""
        # Without a length of blocks, it is checked when the model is known.
        num_blocks = -(-self.gen_length // (self.block_length or self.gen_length))
        # So it is without an unmask policy, which the model may recommend.
        free = self.unmask.paced_by_time or "unmask" not in self.stated
        most = _MOST if free else self.gen_length
        if self.steps is not None and not num_blocks <= self.steps <= most:
            least = (
                f"{num_blocks} (one for each block)" if self.block_length else "one for each block"
            )
            last = most if self.unmask.paced_by_time else f"{most} (one for each new token)"
            raise ConfigError(f"steps is {shown(self.steps)}, must be between {least} and {last}")

    @property
    def whole_block(self) -> int:
        """Positions of a block that is not cut short, where no model says otherwise."""
        return self.block_length or _USUAL_BLOCK

    @property
    def suffix(self) -> int | None:
        """Positions right of a block that there are while it is decoded; None: all of them."""
        return 0 if self.growing_canvas else self.suffix_window

    @property
    def may_overlap(self) -> bool:
        """Whether a step may be launched before it is known what the one before decided.

        If the block turns out to be done, such a step must change nothing: nothing may be drawn in
        it, and no mask left of the block be committed by it.
        """
        pure = self.cache.pure and self.unmask.pure and self.skip.pure
        return pure and self.temperature == 0 and self.budget == "finish"

    def idle(self) -> tuple[str, ...]:
        """What is set and has no effect beside the other settings, a sentence each."""
        said = list(self.unmask.idle())
        if self.steps is not None and not self.unmask.uses_steps and self.budget == "finish":
            unmask = policies.UNMASK.spell(self.unmask, brief=True)
            said.append(
                f"steps={self.steps} has no effect: {unmask} commits by confidence and "
                f"budget=finish goes on until no mask is left; budget=stop or unmask=fixed uses it"
            )
        if self.seed is not None and self.temperature == 0 and not self.unmask.uses_seed:
            said.append(
                f"seed={self.seed} has no effect at temperature 0; a temperature or a random order "
                f"uses it"
            )
        if self.growing_canvas and self.whole_block >= self.gen_length:
            said.append(
                f"growing_canvas has no effect: all {self.gen_length} new tokens are one block of "
                f"block_length={self.whole_block}; a shorter one lets it grow"
            )
        if self.suffix_window is not None and (why := self._window_holds_all()):
            said.append(f"suffix_window={self.suffix_window} has no effect: {why}")
        if self.stop_after == "block" and not (self.eos_stop or self.stop_ids):
            said.append(
                "stop_after=block has no effect: eos_stop=false and no stop_ids, so nothing stops"
            )
        if self.top_p == 1 and self.top_k is None and self.temperature == 0:
            said.append("top_p=1.0 has no effect at temperature 0; below 1 it leaves tokens out")
        return tuple(said)

    def _window_holds_all(self) -> str:
        """Why a window leaves nothing out that would be there without it; empty if it does."""
        if self.growing_canvas:
            return "growing_canvas leaves nothing right of a block"
        most = max(0, self.gen_length - (1 if self.absolute_blocks else self.whole_block))
        if self.suffix_window is None or self.suffix_window < most:
            return ""
        return (
            f"at most {most} of {self.gen_length} new positions are right of a block of "
            f"{self.whole_block}; a smaller window or shorter blocks leave some out"
        )

    def replace(self, **changes: Unpack[SettingsFields]) -> Settings:
        """A copy with some settings changed.

        Raises:
            ConfigError: a name is unknown or a value is refused.
        """
        own, given = self._values(), canonical(changes)
        made = object.__new__(Settings)
        made._fill(own, given, self.stated.union(given))
        return made

    def all_stated(self) -> Settings:
        """The same, and no model changes any of it.

        Raises:
            ConfigError: there are more steps than its unmask policy has a use for.
        """
        made = copy.copy(self)
        object.__setattr__(made, "stated", frozenset(self._values()))
        made._check_steps()
        return made

    def _values(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in policies.field_defaults(type(self))}

    def as_text(self) -> dict[str, str]:
        """Every setting by name, policies in their command-line form."""
        kinds = {kind.name: kind for kind in policies.KINDS}
        texts = dict[str, str]()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in kinds:
                texts[field.name] = kinds[field.name].spell(value)
            else:
                texts[field.name] = spelled(value)
        return texts

    def as_json(self) -> dict[str, str | int | float | bool | tuple[int, ...] | None]:
        """Every setting by name as a plain value, policies in their command-line form."""
        kinds = {kind.name: kind for kind in policies.KINDS}
        return {
            field.name: kinds[field.name].spell(getattr(self, field.name))
            if field.name in kinds
            else getattr(self, field.name)
            for field in dataclasses.fields(self)
        }


def spelled(value: object) -> str:
    """The text of a value that is no policy."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def canonical(settings: Mapping[str, V]) -> dict[str, V]:
    """The same settings without aliases.

    Raises:
        ConfigError: a setting is given under two names, with different values.
    """
    values = {name: value for name, value in settings.items() if name not in ALIASES}
    for alias, name in ALIASES.items():
        # As texts: a value need not be one that can be compared.
        if alias in settings and str(values.setdefault(name, settings[alias])) != str(
            settings[alias]
        ):
            raise ConfigError(
                f"{alias}={cut(str(settings[alias]))} and {name}={cut(str(values[name]))} are one "
                f"setting with two values; give one of them"
            )
    return values


def parse_settings(texts: Mapping[str, str], base: Settings | None = None) -> Settings:
    """Settings from their text forms, over ``base``.

    Args:
        texts: setting name to text, for example ``{"cache": "dual", "gen_length": "64"}``.
        base: what is not named is taken from here; the defaults if None.

    Raises:
        ConfigError: a name is unknown or a text is no value of its setting.
    """
    return (base or Settings()).replace(**parse_fields(texts))


def parse_fields(texts: Mapping[str, str]) -> SettingsFields:
    """Values of settings from their text forms, each by itself; policies stay in theirs.

    Raises:
        ConfigError: a name is unknown or a text is no value of its setting.
    """
    hints = typing.get_type_hints(Settings)
    kinds = {kind.name: kind for kind in policies.KINDS}
    values = dict[str, object]()
    for name, text in canonical(texts).items():
        if name not in hints:
            raise ConfigError(f"setting {shown(name)} is unknown; {_meant(name)}")
        values[name] = text if name in kinds else policies.convert(text, hints[name], name)
    return cast("SettingsFields", values)


def parse_spec(spec: str) -> dict[str, str]:
    """Split a run spec, ``key=value`` pairs separated by spaces, into texts by name.

    Keys may be written with hyphens.

    Raises:
        ConfigError: a pair has no value or a key is given twice.
    """
    texts = dict[str, str]()
    for pair in spec.split():
        name, equals, value = pair.partition("=")
        key = name.replace("-", "_")
        if not (key and equals and value):
            raise ConfigError(f"{shown(pair)} in a run spec is no setting; write key=value pairs")
        if key in texts:
            raise ConfigError(f"{shown(key)} is given twice in a run spec; give it once")
        texts[key] = value
    return canonical(texts)


def _meant(name: str) -> str:
    if name in _OF_LOAD:
        return f"it belongs to the model: skipstone.load(..., {name}=...)"
    return nearest(name, [*policies.field_defaults(Settings), *ALIASES])


def _checked_ids(ids: object) -> tuple[int, ...]:
    """Ids as they are kept, each once."""
    if hasattr(ids, "keys") or isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise ConfigError(f"stop_ids is {shown(ids)}; give a list of token ids")
    found = tuple(cast("int", checked("each of stop_ids", one, int)) for one in ids)
    for one in found:
        if one < 0:
            raise ConfigError(f"stop_ids has {shown(one)}, must be token ids, 0 or more")
    return tuple(dict.fromkeys(found))


def _check_count(name: str, value: int) -> None:
    if not 1 <= value <= _MOST:
        raise ConfigError(f"{name} is {shown(value)}, must be at least 1 and at most {_MOST}")
