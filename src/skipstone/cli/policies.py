"""``skipstone policies``: every policy with its settings, or all of one."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import TypedDict

import click

from skipstone.cli.terminal import note, say, say_json
from skipstone.errors import ConfigError, nearest
from skipstone.policies import KINDS, field_defaults, refused
from skipstone.quoting import shown


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--debug", is_flag=True, expose_value=False, help="Print tracebacks.")
def policies(name: str | None, *, as_json: bool) -> None:
    """List cache, unmask and skip policies: built in, and registered by other packages.

    With NAME, as klass or unmask=klass: its rule, where it comes from, what its settings mean, what
    it needs and what that costs.
    """
    found = {kind.name: kind.known() for kind in KINDS}
    if name is not None:
        _say_all(_named(name, found), as_json=as_json)
        return
    if as_json:
        say_json(
            {kind: {n: _describe(p) for n, p in members.items()} for kind, members in found.items()}
        )
        return
    for kind, members in found.items():
        for known, policy in members.items():
            about = _describe(policy)
            say((f"{kind}={known}", "head"), f"  {about['summary']}  [{about['origin']}]")
            for setting, default in about["settings"].items():
                say(f"    {setting}={default}")
    for why in refused():
        note(why)


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


def _named(name: str, found: dict[str, dict[str, type]]) -> dict[str, type]:
    """The policies that are called so; one of each kind, at most.

    Raises:
        ConfigError: there are none.
    """
    every = {
        f"{kind}={known}": p for kind, members in found.items() for known, p in members.items()
    }
    chosen = {full: p for full, p in every.items() if name in (full, full.partition("=")[2])}
    if not chosen:
        words = [*every, *(full.partition("=")[2] for full in every)]
        raise ConfigError(f"policy {shown(name)} is unknown; {nearest(name, words)}")
    return chosen


def _say_all(chosen: dict[str, type], *, as_json: bool) -> None:
    """All that policies say of themselves."""
    from skipstone.cli.policy_text import text_of

    texts = {full: text_of(policy) for full, policy in chosen.items()}
    if as_json:
        origins = {full: _describe(policy)["origin"] for full, policy in chosen.items()}
        say_json({full: {"origin": origins[full], **asdict(text)} for full, text in texts.items()})
        return
    for full, text in texts.items():
        say((full, "head"), f"  [{_describe(chosen[full])['origin']}]")
        for label, lines in (("rule", text.rule), ("source", text.source)):
            for line in lines:
                say((f"  {label:<9}", "label"), line)
        for one in text.settings:
            say((f"  {one.name}={one.default}", "label"), f"  ({one.kind})  {one.meaning}")
        for line in text.declares:
            say(("  declares ", "label"), line)
