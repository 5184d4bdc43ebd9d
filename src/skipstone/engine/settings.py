"""All settings of a run in one value: it is printed, compared, recorded and parsed as one thing."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict, cast

from skipstone import policies
from skipstone.cache import CachePolicy, DualCache
from skipstone.checks import check_fields
from skipstone.errors import ConfigError, nearest
from skipstone.skip import NoSkip, SkipPolicy
from skipstone.unmask import Threshold, UnmaskPolicy

Budget = Literal["finish", "stop"]


class SettingsFields(TypedDict, total=False):
    """The fields of ``Settings`` as keywords."""

    cache: CachePolicy
    unmask: UnmaskPolicy
    skip: SkipPolicy
    gen_length: int
    block_length: int
    steps: int | None
    temperature: float
    seed: int | None
    eos_stop: bool
    budget: Budget


@dataclass(frozen=True)
class Settings:
    """How to decode. Frozen; ``dataclasses.replace`` makes a changed copy."""

    cache: CachePolicy = DualCache()
    """Which rows are recomputed in a step."""
    unmask: UnmaskPolicy = Threshold()
    """Which masks are committed in a step."""
    skip: SkipPolicy = NoSkip()
    """Which rows leave before the deep layers."""
    gen_length: int = 128
    """New positions after the prompt."""
    block_length: int = 32
    """Positions decoded together, from left to right; the last block may be shorter."""
    steps: int | None = None
    """Steps over all blocks; None is one for each new position. Fixed schedule or budget stop."""
    temperature: float = 0.0
    """0 takes the most probable token; above, Gumbel noise in float64 samples."""
    seed: int | None = None
    """Of temperature or random order. The same for each prompt of a batch, so that a prompt gives
    the same tokens alone."""
    eos_stop: bool = True
    """Stop a request once EOS is committed and nothing left of it is masked."""
    budget: Budget = "finish"
    """``finish`` decodes until no mask is left; ``stop`` ends each block after its steps."""

    def __post_init__(self) -> None:
        """Refuse values outside their range, and settings that would have no effect."""
        check_fields(self)
        for name in ("gen_length", "block_length"):
            _check_count(name, getattr(self, name))
        if self.steps is not None:
            _check_count("steps", self.steps)
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature is {self.temperature}, must be 0 or more, and finite")
        policies.CACHE.check(self.cache)
        policies.UNMASK.check(self.unmask)
        policies.SKIP.check(self.skip)
        self._check_effect()

    def _check_effect(self) -> None:
        num_blocks = math.ceil(self.gen_length / self.block_length)
        if self.steps is not None:
            if not self.unmask.uses_steps and self.budget == "finish":
                unmask = policies.UNMASK.spell(self.unmask, brief=True)
                raise ConfigError(
                    f"steps={self.steps} has no effect: {unmask} commits by confidence and "
                    f"budget=finish goes on until no mask is left; leave steps out, or use "
                    f"budget=stop or unmask=fixed"
                )
            if not num_blocks <= self.steps <= self.gen_length:
                raise ConfigError(
                    f"steps is {self.steps}, must be between {num_blocks} (one for each block) and "
                    f"{self.gen_length} (one for each new token)"
                )
        draws = self.temperature > 0 or self.unmask.uses_seed
        if self.seed is not None:
            if not draws:
                raise ConfigError(
                    f"seed={self.seed} has no effect at temperature 0; leave it out, or set a "
                    f"temperature or a random order"
                )
            if not 0 <= self.seed < 2**63:
                raise ConfigError(f"seed is {self.seed}, must be between 0 and 2**63 - 1")

    def replace(self, **changes: typing.Unpack[SettingsFields]) -> Settings:
        """A copy with some settings changed.

        Raises:
            ConfigError: a name is unknown or a value is refused.
        """
        fields = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in fields:
                raise ConfigError(f"setting {name!r} is unknown; {nearest(name, fields)}")
        return dataclasses.replace(self, **changes)

    def as_text(self) -> dict[str, str]:
        """Every setting by name, policies in their command-line form."""
        kinds = {kind.name: kind for kind in policies.KINDS}
        texts = dict[str, str]()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in kinds:
                texts[field.name] = kinds[field.name].spell(value)
            else:
                texts[field.name] = str(value).lower() if isinstance(value, bool) else str(value)
        return texts


def parse_settings(texts: Mapping[str, str], base: Settings | None = None) -> Settings:
    """Settings from their text forms, over ``base``.

    Args:
        texts: setting name to text, for example ``{"cache": "dual", "gen_length": "64"}``.
        base: what is not named is taken from here; the defaults if None.

    Raises:
        ConfigError: a name is unknown or a text is no value of its setting.
    """
    hints = typing.get_type_hints(Settings)
    kinds = {kind.name: kind for kind in policies.KINDS}
    values = dict[str, object]()
    for name, text in texts.items():
        if name not in hints:
            raise ConfigError(f"setting {name!r} is unknown; {nearest(name, hints)}")
        if name in kinds:
            values[name] = kinds[name].parse(text)
        else:
            values[name] = policies.convert(text, hints[name], name)
    return (base or Settings()).replace(**cast("SettingsFields", values))


def parse_spec(spec: str) -> dict[str, str]:
    """Split a run spec, ``key=value`` pairs separated by spaces, into texts by name.

    Raises:
        ConfigError: a pair has no value or a key is given twice.
    """
    texts = dict[str, str]()
    for pair in spec.split():
        key, equals, value = pair.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"{pair!r} in a run spec is no setting; write key=value pairs")
        if key in texts:
            raise ConfigError(f"{key!r} is given twice in a run spec; give it once")
        texts[key] = value
    return texts


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}, must be at least 1")
