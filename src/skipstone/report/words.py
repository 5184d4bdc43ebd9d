"""The words of the report, in every language it speaks: a file a language, the same keys in all.

What rules say is English with a template; ``words/rules.zh.toml`` has every template in Chinese.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from skipstone.errors import ConfigError, nearest
from skipstone.quoting import shown
from skipstone.sentence import Sentence

LANGUAGES = {"en": "English", "zh": "中文"}
"""Codes and own names, the default first."""


@cache
def words(language: str) -> Mapping[str, str]:
    """All words of a language by key; a key in a section is ``section.key``.

    Raises:
        ConfigError: the language is not known.
    """
    if language not in LANGUAGES:
        raise ConfigError(f"language is {shown(language)}; {nearest(language, LANGUAGES)}")
    sections = _sections(language)
    return {f"{name}.{key}": word for name, keys in sections.items() for key, word in keys.items()}


@cache
def sentences(language: str) -> Mapping[str, str]:
    """Templates of sentences by their English ones; empty for English."""
    if language == "en":
        return {}
    return {en: own for keys in _sections(f"rules.{language}").values() for en, own in keys.items()}


def _sections(name: str) -> dict[str, dict[str, str]]:
    text = files("skipstone.report").joinpath("words", f"{name}.toml").read_text("utf-8")
    return tomllib.loads(text)


@dataclass(frozen=True)
class Say:
    """A sentence that is not yet in a language: the key of its words, and what fills them in."""

    key: str
    values: Mapping[str, object] = field(default_factory=dict)
    """Numbers, texts, or more to say."""


Phrase = Say | Sentence | str
"""Words of the report, a sentence of a rule, or text that is the same in every language."""


def template(text: Say | Sentence, language: str) -> str:
    """What the values of a text are filled into."""
    if isinstance(text, Say):
        return words(language)[text.key]
    return sentences(language).get(text.template, text.template)


def in_language(text: Phrase, language: str) -> str:
    """A text as it is said in a language."""
    if not isinstance(text, (Say, Sentence)):
        return text
    filled = {
        name: in_language(value, language) if isinstance(value, (Say, str)) else value
        for name, value in text.values.items()
    }
    return template(text, language).format(**filled)


def say(key: str, **values: object) -> Say:
    """Something to say, for example ``say("place.at", block=0, step=6)``."""
    return Say(key, values)
