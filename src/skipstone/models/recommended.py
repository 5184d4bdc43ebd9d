"""How to decode with a checkpoint where its user says nothing: as its files or its authors say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from skipstone.errors import CheckpointError
from skipstone.models.architecture import Architecture
from skipstone.models.base import ModelConfig
from skipstone.quoting import shown
from skipstone.text import Text
from skipstone.text.published import read_settings

FILE = "generation_config.json"

_MOST_STOPS = 7  # beside EOS; no published file has more than three


@dataclass(frozen=True)
class Recommended:
    """Of one checkpoint; what a user states wins over it, each setting by itself."""

    settings: Mapping[str, str] = field(default_factory=dict)
    """As texts by name, where they are not Skipstone's defaults."""
    by: str = ""
    """Where they are from."""


def read_recommended(directory: Path, entry: Architecture) -> Recommended:
    """Settings of generation_config.json, and for the rest those of the entry.

    Raises:
        CheckpointError: the file is broken, or has a value that is none of its setting.
    """
    drawing = _drawing(directory / FILE)
    guide = entry.guide
    origins = (guide.by if guide.recommended else "", FILE if drawing else "")
    return Recommended({**guide.recommended, **drawing}, " and ".join(filter(None, origins)))


def read_stop_ids(
    directory: Path, entry: Architecture, text: Text, config: ModelConfig
) -> tuple[int, ...]:
    """Ids beside EOS that end an answer: of generation_config.json, and of the entry's tokens.

    Raises:
        CheckpointError: the file is broken, or has ids that the model lacks.
    """
    path = directory / FILE
    stated = read_settings(path).get("eos_token_id")
    listed = stated if isinstance(stated, list) else [] if stated is None else [stated]
    for token in listed:
        whole = isinstance(token, int) and not isinstance(token, bool)
        if not whole or not 0 <= token < config.vocab_size:
            raise _wrong(path, "eos_token_id", stated, f"ids below {config.vocab_size}")
    ids = dict.fromkeys((*listed, *text.ids_of_special(entry.stop_tokens)))
    found = tuple(token for token in ids if token != config.eos_id)
    if len(found) > _MOST_STOPS:
        raise _wrong(path, "eos_token_id", stated, f"at most {_MOST_STOPS} ids beside EOS")
    return found


def _drawing(path: Path) -> dict[str, str]:
    """How tokens are drawn; nothing where the file does not say, greedy where it says so."""
    values = read_settings(path)
    if values.get("do_sample") is False:
        return {"temperature": "0.0"}
    found = dict[str, str]()
    for name, most, rule in (
        ("temperature", math.inf, "a number, 0 or more"),
        ("top_p", 1, "a number above 0, and at most 1"),
        ("top_k", math.inf, "a whole number, 0 or more"),
    ):
        value = values.get(name)
        if value is None:
            continue
        wanted = int if name == "top_k" else int | float
        fits = isinstance(value, wanted) and not isinstance(value, bool) and 0 <= value <= most
        if not fits or (name == "top_p" and value == 0) or value == math.inf:
            raise _wrong(path, name, value, rule)
        # None of them is all of them.
        found[name] = "none" if name == "top_k" and value == 0 else str(value)
    return found


def _wrong(path: Path, name: str, value: object, rule: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {name} is {shown(value)}, must be {rule}; copy the file from the published "
        f"checkpoint, or remove it"
    )
