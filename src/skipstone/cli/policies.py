"""``skipstone policies``: every policy with its settings."""

from __future__ import annotations

import dataclasses
import inspect
import json

import click

from skipstone.policies import KINDS


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
        print(json.dumps(found))
        return
    for kind, members in found.items():
        for name, about in members.items():
            print(f"{kind}={name}  {about['summary']}  [{about['origin']}]")
            for setting, default in about["settings"].items():
                print(f"    {setting}={default}")


def _describe(policy: type) -> dict[str, object]:
    return {
        "summary": (inspect.getdoc(policy) or "").splitlines()[0],
        "origin": policy.__module__.partition(".")[0],
        "settings": {field.name: field.default for field in dataclasses.fields(policy)},
    }
