"""What lies in a folder of recorded truth: a checkpoint with cases, or cases of a policy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipstone.errors import CheckpointError
from skipstone.quoting import one_line
from skipstone.testing.golden.case import GoldenCase, Inexpressible, InexpressibleError
from skipstone.testing.golden.published import checkpoints, policies

CASES = "cases.json"


@dataclass(frozen=True)
class GoldenFolder:
    """A checkpoint and what published code gave with it."""

    checkpoint: Path
    cases: tuple[GoldenCase | Inexpressible, ...]


def read(folder: Path) -> list[GoldenFolder]:
    """All that is recorded in a folder.

    Args:
        folder: a checkpoint with ``cases.json``, or a folder of one policy, in which each file is
            named after a checkpoint that lies two folders up.

    Raises:
        CheckpointError: it is neither, or a file cannot be read.
    """
    if (folder / CASES).is_file():
        return [_checkpoint(folder)]
    files = sorted(folder.glob("*.json"))
    if not files:
        raise CheckpointError(
            f"{folder} holds no recorded truth; give a folder with {CASES} beside a checkpoint, or "
            f"one of a policy, with a file for each checkpoint"
        )
    return [_policy(file) for file in files]


def _checkpoint(folder: Path) -> GoldenFolder:
    config, values = _json(folder / "config.json"), _json(folder / CASES)
    named = config.get("architectures") or [""]
    found = list[GoldenCase | Inexpressible]()
    for number, case in enumerate(values):
        name = f"{folder.name} {number}"
        found += _read(name, checkpoints.kind(case), checkpoints.read(named[0], name, case))
    return GoldenFolder(folder, tuple(found))


def _policy(file: Path) -> GoldenFolder:
    recorded = _json(file)
    policy, checkpoint = str(recorded["policy"]), file.parents[2] / file.stem
    found = list[GoldenCase | Inexpressible]()
    for number, case in enumerate(recorded["cases"]):
        name = f"{file.parent.name}/{file.stem} {number}"
        found += _read(name, policy, policies.read(policy, name, case))
    return GoldenFolder(checkpoint, tuple(found))


def _read(
    name: str, kind: str, cases: Iterator[GoldenCase]
) -> Iterator[GoldenCase | Inexpressible]:
    try:
        yield from cases
    except InexpressibleError as error:
        yield Inexpressible(name, kind, str(error))
    except KeyError as error:
        yield Inexpressible(name, kind, f"the case has no {error}")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({one_line(error)})") from None
