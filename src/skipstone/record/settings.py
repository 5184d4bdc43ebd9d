"""Settings as plain values: a header keeps them as texts, programs want numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress

Plain = str | int | float | bool | None


def plain(text: str) -> Plain:
    """The number, bool or None that a setting's text stands for; else the text itself.

    Only a number as Python itself writes it is one: ``007`` stays text.
    """
    for kind in (int, float):
        # ValueError is also a number of too many digits.
        with suppress(ValueError):
            value = kind(text)
            if str(value) == text and abs(value) < math.inf:
                return value
    return {"true": True, "false": False, "None": None}.get(text, text)


def draws(settings: Mapping[str, str]) -> bool:
    """Whether the settings say that tokens are drawn."""
    try:
        return float(settings["temperature"]) > 0
    except (KeyError, ValueError):
        return False


def plain_settings(settings: Mapping[str, str]) -> dict[str, Plain]:
    """The same for each of them, by name."""
    return {name: plain(text) for name, text in settings.items()}
