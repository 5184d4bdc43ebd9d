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
_WANTED = f"give a folder with {CASES} beside a checkpoint, or one of a policy"


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
            f"{folder} holds no recorded truth; {_WANTED}, with a file for each checkpoint"
        )
    return [_policy(file) for file in files]


def _checkpoint(folder: Path) -> GoldenFolder:
    config, values = _json(folder / "config.json"), _json(folder / CASES)
    named = config.get("architectures") if isinstance(config, dict) else None
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    found = list[GoldenCase | Inexpressible]()
    for number, case in enumerate(_cases(folder / CASES, values)):
        name = f"{folder.name} {number}"
        found += expressed(name, checkpoints.kind(case), checkpoints.read(architecture, name, case))
    return GoldenFolder(folder, tuple(found))


def _policy(file: Path) -> GoldenFolder:
    recorded = _json(file)
    if not isinstance(recorded, dict) or not {"policy", "cases"} <= recorded.keys():
        raise CheckpointError(
            f"{file} holds no cases of a policy; {_WANTED}, whose files have policy and cases"
        )
    policy, checkpoint = str(recorded["policy"]), file.absolute().parents[2] / file.stem
    found = list[GoldenCase | Inexpressible]()
    for number, case in enumerate(_cases(file, recorded["cases"])):
        name = f"{file.parent.name}/{file.stem} {number}"
        found += expressed(name, policy, policies.read(policy, name, case))
    return GoldenFolder(checkpoint, tuple(found))


def _cases(file: Path, values: object) -> list[dict[str, Any]]:
    """The cases of a file, which has some."""
    if isinstance(values, list) and values and all(isinstance(case, dict) for case in values):
        return values
    raise CheckpointError(f"{file} must hold a list of cases, at least one; record it again")


def expressed(
    name: str, kind: str, cases: Iterator[GoldenCase]
) -> Iterator[GoldenCase | Inexpressible]:
    """What a reader makes of a case, or why nothing.

    Args:
        name: of the case.
        kind: what was run.
        cases: of a reader.
    """
    try:
        yield from cases
    except InexpressibleError as error:
        yield Inexpressible(name, kind, str(error))
    except KeyError as error:
        yield Inexpressible(name, kind, f"the case has no {error}")
    # Whatever is written there: published code could not be called so either.
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as error:
        yield Inexpressible(name, kind, f"no call has such parameters ({one_line(error)})")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({one_line(error)})") from None
