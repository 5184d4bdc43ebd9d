"""The grid of a sweep: ``skip_threshold=0.9,0.99 unmask=fixed,threshold:0.7`` as settings."""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Mapping, Sequence

from skipstone import policies
from skipstone.engine.settings import Settings, parse_settings, parse_spec
from skipstone.errors import ConfigError, nearest
from skipstone.quoting import shown
from skipstone.skip import CosineSkip, NoSkip

BASELINE = "baseline"
"""The name of the run that all settings are held against."""

_SKIP_FIELDS = tuple(field.name for field in dataclasses.fields(CosineSkip))
_NOT_SWEPT = ("model", "device", "dtype")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One point of a grid."""

    name: str
    """The pairs of the grid that make it, such as ``skip_threshold=0.9 unmask=fixed``."""
    settings: Settings

    @property
    def spec(self) -> str:
        """The run spec that decodes like this: what differs from the defaults."""
        return spell(self.settings)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The settings of a sweep, none of them twice."""

    settings: tuple[Setting, ...]
    notes: tuple[str, ...]
    """What was left out, and why."""


def parse_grid(text: str, base: Settings, baseline: Settings) -> Grid:
    """Every combination of the values in a grid.

    Keys are settings of a run spec, or fields of the cosine skip. Combinations that decode alike
    are run once: a ``skip_threshold`` of 1 never skips, whatever its K.

    Args:
        text: ``key=value,value key=value``; a value may be a policy with settings of its own.
        base: what is not in the grid.
        baseline: what the settings will be held against; it is left out of the grid.

    Raises:
        ConfigError: a key is unknown, a value is refused, or nothing is left to compare.
    """
    axes = {key.replace("-", "_"): _values(values) for key, values in parse_spec(text).items()}
    _check_keys(axes)
    found, notes = dict[Settings, Setting](), list[str]()
    merged = 0
    for values in itertools.product(*axes.values()):
        setting = _setting(dict(zip(axes, values, strict=True)), base)
        if setting.settings == baseline:
            notes.append(f"{setting.name} is the baseline")
        elif setting.settings in found:
            merged += 1
        else:
            found[setting.settings] = setting
    if merged:
        notes.append(f"{merged} settings decode like another one (threshold 1 never skips)")
    if not found:
        raise ConfigError(f"grid {shown(text)} holds nothing but the baseline; add other values")
    return Grid(tuple(found.values()), tuple(notes))


def spell(settings: Settings) -> str:
    """The run spec of settings: all that differ from the defaults."""
    kinds = {kind.name: kind for kind in policies.KINDS}
    texts, defaults = settings.as_text(), Settings()
    changed = [name for name in texts if getattr(settings, name) != getattr(defaults, name)]
    return " ".join(
        f"{name}={kinds[name].spell(getattr(settings, name), brief=True)}"
        if name in kinds
        else f"{name}={texts[name]}"
        for name in changed
    )


def _values(text: str) -> list[str]:
    """Split at commas, but for those between the settings of one policy."""
    values = list[str]()
    for part in text.split(","):
        if values and "=" in part and ":" not in part:
            values[-1] += f",{part}"
        else:
            values.append(part)
    return values


def _check_keys(axes: Mapping[str, Sequence[str]]) -> None:
    known = [*Settings.__dataclass_fields__, *_SKIP_FIELDS]
    for key, values in axes.items():
        if key in _NOT_SWEPT:
            raise ConfigError(f"{key} cannot be swept; give it as --{key}, one sweep for each")
        if key not in known:
            raise ConfigError(f"setting {shown(key)} of the grid is unknown; {nearest(key, known)}")
        repeated = next((value for value in values if values.count(value) > 1), None)
        if repeated is not None:
            raise ConfigError(f"{key}={repeated} is twice in the grid; give it once")
    fields = [key for key in axes if key in _SKIP_FIELDS]
    if "skip" in axes and fields:
        raise ConfigError(
            f"the grid has skip and {fields[0]}, which is part of it; write skip=cosine:"
            f"{fields[0]}=VALUE, or leave skip out"
        )


def _setting(texts: dict[str, str], base: Settings) -> Setting:
    """One combination."""
    try:
        plain = {key: text for key, text in texts.items() if key not in _SKIP_FIELDS}
        settings = parse_settings(plain, base)
        fields = {key: text for key, text in texts.items() if key in _SKIP_FIELDS}
        if fields:
            settings = settings.replace(skip=_cosine(fields, base))
    except ConfigError as error:
        pairs = " ".join(f"{key}={text}" for key, text in texts.items())
        raise ConfigError(f"grid setting {shown(pairs)}: {error}") from None
    if isinstance(settings.skip, CosineSkip) and settings.skip.skip_threshold == 1:
        settings = settings.replace(skip=NoSkip())
    return Setting(_name(texts, settings), settings)


def _name(texts: Mapping[str, str], settings: Settings) -> str:
    """The pairs of a setting; all of a skip that never skips are ``skip=none``."""
    if not isinstance(settings.skip, NoSkip):
        return " ".join(f"{key}={text}" for key, text in texts.items())
    of_skip = ("skip", *_SKIP_FIELDS)
    pairs = ("skip=none" if key in of_skip else f"{key}={text}" for key, text in texts.items())
    return " ".join(dict.fromkeys(pairs))


def _cosine(fields: Mapping[str, str], base: Settings) -> CosineSkip:
    hints = typing.get_type_hints(CosineSkip)
    values = {key: policies.convert(text, hints[key], key) for key, text in fields.items()}
    skip = base.skip if isinstance(base.skip, CosineSkip) else CosineSkip()
    return dataclasses.replace(skip, **typing.cast("dict[str, typing.Any]", values))
