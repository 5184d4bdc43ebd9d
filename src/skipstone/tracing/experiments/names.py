"""What experiments are called: for whoever waits for them, and where a trace keeps them."""

from __future__ import annotations

import dataclasses
import json
from zlib import crc32

from skipstone.diagnosis.experiment import STRAIGHT, ExperimentRequest, Rerun, Rescore, Unobserved


def describe(experiment: ExperimentRequest) -> str:
    """What an experiment does, in a few words."""
    if isinstance(experiment, Rescore):
        return f"score {len(experiment.masked)} positions again with everything else known"
    if isinstance(experiment, Unobserved):
        return f"run {experiment.side.upper()} again without a recorder"
    changes = " ".join(f"{name}={text}" for name, text in experiment.changes)
    if isinstance(experiment, Rerun):
        return f"run {experiment.side.upper()} again" + (f" with {changes}" if changes else "")
    parts = [
        f"follow {experiment.along.upper()}'s canvases, settings of {experiment.settings.upper()}",
        changes,
        experiment.patch_name,
        experiment.variation and f"varying {experiment.variation}",
        "in a better dtype" if experiment.lifted else "",
        experiment.hidden and f"visible keys: {experiment.hidden}",
        "" if experiment.seen is None else "visible keys: {} to {}".format(*experiment.seen),
        "" if experiment.turn == STRAIGHT else f"other rotation or scale: {experiment.turn}",
    ]
    return ", ".join(part for part in parts if part)


def as_request(experiment: ExperimentRequest) -> dict[str, object]:
    """An experiment as plain data; patched values are named, not kept."""
    fields = {f.name: getattr(experiment, f.name) for f in dataclasses.fields(experiment)}
    fields.pop("patches", None)
    turn = fields.pop("turn", STRAIGHT)
    plain = {n: sorted(v) if isinstance(v, frozenset) else v for n, v in fields.items()}
    if turn != STRAIGHT:
        plain["turn"] = dataclasses.asdict(turn)
    return {"kind": type(experiment).__name__.lower(), **plain}


def key_of(experiment: ExperimentRequest) -> str:
    """A name to keep an experiment under: what it does, and a fingerprint of all that it asks."""
    request = json.dumps(as_request(experiment))
    return f"{describe(experiment)} [{crc32(request.encode()):08x}]"
