"""``skipstone policies``: every policy with its settings."""

from __future__ import annotations

import inspect
from typing import TypedDict

import click

from skipstone.cli.terminal import say, say_json
from skipstone.policies import KINDS, field_defaults


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--debug", is_flag=True, expose_value=False, help="Print tracebacks.")
def policies(*, as_json: bool) -> None:
    """List cache, unmask and skip policies: built in, and registered by other packages."""
    found = {
        kind.name: {name: _describe(policy) for name, policy in kind.known().items()}
        for kind in KINDS
    }
    if as_json:
        say_json(found)
        return
    for kind, members in found.items():
        for name, about in members.items():
            say((f"{kind}={name}", "head"), f"  {about['summary']}  [{about['origin']}]")
            for setting, default in about["settings"].items():
                say(f"    {setting}={default}")


class _About(TypedDict):
    summary: str
    origin: str
    settings: dict[str, object]


def _describe(policy: type) -> _About:
    """The first sentence of a policy, the package it comes from, its settings and defaults."""
    return {
        "summary": (inspect.getdoc(policy) or "").partition("\n")[0],
        "origin": policy.__module__.partition(".")[0],
        "settings": field_defaults(policy),
    }
