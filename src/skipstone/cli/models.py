"""``skipstone models``: which architectures run, what was checked, and how to decode with each."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from skipstone.cli.terminal import say, say_json
from skipstone.errors import CheckpointError, nearest
from skipstone.quoting import shown

if TYPE_CHECKING:
    from skipstone.models.architecture import Architecture


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--debug", is_flag=True, expose_value=False, help="Print tracebacks.")
def models(name: str | None, *, as_json: bool) -> None:
    """List the models that run, or say all of NAME: an architecture, or what people call it."""
    from skipstone.models.table import ARCHITECTURES

    entries = list(ARCHITECTURES.values()) if name is None else [_named(name)]
    if as_json:
        say_json({entry.name: _described(entry) for entry in entries})
    elif name is None:
        for entry in entries:
            say((entry.title, "head"), f"  {entry.guide.checkpoints}  [{entry.name}]")
            say("    ", entry.guide.spec or "(the defaults)")
    else:
        _say_all(entries[0])


def _named(name: str) -> Architecture:
    """The entry of a name: its own, or that of a checkpoint that it serves.

    Raises:
        CheckpointError: nothing is called so, several are, or what is does not run.
    """
    from skipstone.models.family import UNSUPPORTED
    from skipstone.models.table import ARCHITECTURES

    known = {text: e for e in ARCHITECTURES.values() for text in (e.title, e.name)}
    folded = {text.casefold(): entry for text, entry in known.items()}
    called = name.rpartition("/")[2].casefold()
    if called in folded:
        return folded[called]
    for architecture, (title, why) in UNSUPPORTED.items():
        if called in (architecture.casefold(), title.casefold()):
            raise CheckpointError(f"{title} does not run yet: {why}; run 'skipstone models'")
    found = [entry for entry in ARCHITECTURES.values() if _serves(entry, called)]
    if len(found) > 1:
        titles = ", ".join(entry.title for entry in found)
        raise CheckpointError(f"{shown(name)} may be one of several: {titles}; give one of them")
    if not found:
        raise CheckpointError(f"model {shown(name)} is unknown; {nearest(name, known)}")
    return found[0]


def _serves(entry: Architecture, called: str) -> bool:
    """Whether a folded name is that of one of its checkpoints, or the beginning of one."""
    listed = (entry.title, *entry.guide.checkpoints.split(", "))
    for word in (text.partition(" ")[0].casefold() for text in listed):
        goes_on = called.startswith(word) and not called[len(word) :][:1].isalpha()
        if goes_on or (called and word.startswith(called)):
            return True
    return False


def _say_all(entry: Architecture) -> None:
    guide = entry.guide
    say((entry.title, "head"), f"  {entry.name}, model_type {entry.model_type}")
    lines = [("checkpoints", guide.checkpoints), ("ids", guide.ids), ("chat", guide.chat)]
    lines += [("recommended", f"{guide.spec or 'the defaults'} ({guide.by})")]
    lines += [("answers end at", ", ".join(("EOS", *entry.stop_tokens)))]
    lines += [("checked", line) for line in guide.verified]
    lines += [("not", line) for line in guide.missing]
    for label, line in lines:
        say((f"  {label:<15}", "label"), line)


def _described(entry: Architecture) -> dict[str, object]:
    return {
        "title": entry.title,
        "model_type": entry.model_type,
        "stop_tokens": entry.stop_tokens,
        **asdict(entry.guide),
    }
