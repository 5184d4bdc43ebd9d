"""``/v1/settings``: which settings a request may change, what they are now, and which policies."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

Plain = str | int | float | bool | list[int] | None


class SettingCard(BaseModel):
    """A setting of the engine; ``skipstone`` of a request takes it by its name."""

    name: str
    value: Plain
    """As the server was started; a policy in its command-line form."""
    choices: list[str]
    """What it may be, if that is one of a few words; names of policies; else none."""


class PolicyCard(BaseModel):
    """A policy that a request may name."""

    name: str
    about: str
    """Its rule in one sentence."""
    settings: dict[str, Plain]
    """Its own settings with their defaults, in order."""


class SettingList(BaseModel):
    """All that a request may change of how it is decoded."""

    object: Literal["settings"] = "settings"
    model: str
    """The name under which it is served."""
    traces: bool
    """Whether requests may be recorded."""
    data: list[SettingCard]
    policies: dict[str, list[PolicyCard]]
    """By the setting that takes them: cache, unmask and skip."""
