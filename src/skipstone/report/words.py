"""The words of the report, in every language it speaks: a file a language, the same keys in all."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from skipstone.errors import ConfigError, nearest

LANGUAGES = {"en": "English", "zh": "中文"}
"""Codes and own names, the default first."""


@cache
def words(language: str) -> Mapping[str, str]:
    """All words of a language by key; a key in a section is ``section.key``.

    Raises:
        ConfigError: the language is not known.
    """
    if language not in LANGUAGES:
        raise ConfigError(f"language is {language!r}; {nearest(language, LANGUAGES)}")
    text = files("skipstone.report").joinpath("words", f"{language}.toml").read_text("utf-8")
    sections = tomllib.loads(text)
    return {f"{name}.{key}": word for name, keys in sections.items() for key, word in keys.items()}


@dataclass(frozen=True)
class Say:
    """A sentence that is not yet in a language: the key of its words, and what fills them in."""

    key: str
    values: Mapping[str, object] = field(default_factory=dict)
    """Numbers, texts, or more to say."""

    def in_language(self, language: str) -> str:
        """The sentence."""
        said = {
            name: value.in_language(language) if isinstance(value, Say) else value
            for name, value in self.values.items()
        }
        return words(language)[self.key].format(**said)


def say(key: str, **values: object) -> Say:
    """Something to say, for example ``say("place.step", block=0, step=6)``."""
    return Say(key, values)
