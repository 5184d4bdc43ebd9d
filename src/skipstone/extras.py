"""Packages that only some commands need: where one is absent, the error says how to get it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires

from skipstone.errors import ConfigError


def missing(module: str, purpose: str, extra: str) -> ConfigError:
    """The error of a command whose package is not installed.

    The remedy names the packages themselves, so that it works from any folder: Skipstone is on no
    index, from which ``skipstone[...]`` could be had.

    Args:
        module: what could not be imported.
        purpose: what needs it, as the subject of the message.
        extra: the extra that lists it.
    """
    needs = " ".join(f"'{need}'" for need in requirements(extra))
    return ConfigError(
        f"{purpose} needs {module}, which is not installed; run: pip install {needs}"
    )


def requirements(extra: str) -> list[str]:
    """What an extra installs, as pip takes it; where nothing is installed, the checkout itself."""
    try:
        declared = [line.partition(";") for line in requires("skipstone") or ()]
    except PackageNotFoundError:
        return [f".[{extra}]"]
    marker = f"extra == '{extra}'"
    return [need.strip() for need, _, when in declared if marker in when.replace('"', "'")]
