"""The harness' ``model_args``: one flat list of names and values, for model, settings and more."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skipstone import policies
from skipstone.engine import Settings, parse_settings
from skipstone.engine.score.likelihood import MonteCarlo
from skipstone.engine.settings import ALIASES, canonical
from skipstone.errors import ConfigError, nearest
from skipstone.quoting import shown

_KINDS = {kind.name: kind for kind in policies.KINDS}


@dataclass(frozen=True)
class Setup:
    """What an evaluation needs beside settings."""

    model: str = "pebble"
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 1
    """Prompts, or masked copies of answers, in one forward."""
    check_greedy: bool = True
    """Find the greedy flag of likelihoods: a forward for each token of an answer."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}, must be at least 1")


@dataclass(frozen=True)
class ModelArgs:
    """All ``model_args``, read."""

    setup: Setup
    settings: Settings
    likelihood: MonteCarlo
    given: tuple[str, ...]
    """Names that the user wrote."""


def read_model_args(args: Mapping[str, object]) -> ModelArgs:
    """Read what the harness passes on.

    Raises:
        ConfigError: a name is unknown or a value is refused.
    """
    texts = _texts(args)
    return ModelArgs(
        setup=Setup(**_values(Setup, texts)),
        settings=parse_settings({n: t for n, t in texts.items() if n in _names(Settings)}),
        likelihood=MonteCarlo(**_values(MonteCarlo, texts)),
        given=tuple(texts),
    )


def _texts(args: Mapping[str, object]) -> dict[str, str]:
    """Values as texts by name.

    The harness splits at commas, so ``skip=cosine:skip_layer_k=4,skip_threshold=0.9`` arrives in
    two pieces; a setting of the policy before it is put back where it belongs.
    """
    known = [*_names(Setup), *_names(MonteCarlo), *_names(Settings), *ALIASES]
    texts, policy = dict[str, str](), ""
    for name, value in args.items():
        text = "none" if value is None else str(value)
        text = text.lower() if isinstance(value, bool) else text
        if name in known:
            texts[name], policy = text, name if name in _KINDS else ""
        elif policy and name in _settings_of(policy, texts[policy]):
            texts[policy] += f"{',' if ':' in texts[policy] else ':'}{name}={text}"
        else:
            raise ConfigError(f"model argument {shown(name)} is unknown; {nearest(name, known)}")
    return canonical(texts)


def _settings_of(kind: str, text: str) -> list[str]:
    """The settings of a policy given as text; none if there is no such policy."""
    found = _KINDS[kind].known().get(text.partition(":")[0])
    return _names(found) if found is not None else []


def _names(kind: type) -> list[str]:
    return list(policies.field_defaults(kind))


def _values(kind: type, texts: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a dataclass that were given, in their types."""
    hints = typing.get_type_hints(kind)
    return {n: policies.convert(texts[n], hints[n], n) for n in _names(kind) if n in texts}
