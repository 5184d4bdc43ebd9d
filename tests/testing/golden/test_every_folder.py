"""Whatever is recorded, of every reader: a case of each kind comes again, and no other answer does.

In ``make test`` the shortest of each kind, through the tool itself; ``make test-long`` replays all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from skipstone.testing.golden.__main__ import main
from skipstone.testing.golden.folder import read
from skipstone.testing.golden.published import checkpoints, policies

pytestmark = pytest.mark.golden

FOLDERS = ("mha", "gqa", "illada", "dream", "sdar", "stable_diffcoder", "llada_moe", "llada2")
POLICIES = tuple(f"policies/{name}" for name in policies.READERS)


def replay(folder: Path) -> Result:
    return CliRunner().invoke(main, [str(folder)])


def cut(recorded: Path, to: Path) -> Path:
    """A copy with the shortest case of each kind, of one checkpoint where there are several."""
    if not recorded.is_dir():
        pytest.skip(f"{recorded.name} is not recorded here")
    of_policy = not (recorded / "cases.json").exists()
    source = sorted(recorded.glob("*.json"))[-1] if of_policy else recorded / "cases.json"
    target = to / ("policies/one" if of_policy else recorded.name)
    target.mkdir(parents=True)
    content = json.loads(source.read_text())
    kept = list(_shortest(recorded, content["cases"] if of_policy else content))
    if of_policy:
        (to / source.stem).symlink_to(recorded.parents[1] / source.stem)
        write(target / source.name, content | {"cases": kept})
        return target
    for file in recorded.iterdir():
        if file.name != "cases.json":
            (target / file.name).symlink_to(file)
    write(target / "cases.json", kept)
    return target


def _shortest(recorded: Path, raw: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of each kind, as the tool counts them, the case with the fewest tokens."""
    best = dict[str, tuple[int, dict[str, Any]]]()
    for case in raw:
        kind, length = checkpoints.kind(case), sum(len(tokens) for tokens in answers(case))
        if kind not in best or length < best[kind][0]:
            best[kind] = length, case
    return (case for _, case in best.values())


def answers(case: dict[str, Any]) -> Iterator[list[int]]:
    """Every list of tokens that a case expects."""
    expected = case.get("expect", case)
    for one in (expected, *(value for value in expected.values() if isinstance(value, dict))):
        if "tokens" in one:
            yield one["tokens"]


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("name", [*FOLDERS, *POLICIES])
def test_the_shortest_case_of_each_kind_comes_again_and_no_other_answer(
    golden_dir: Path, tmp_path: Path, name: str
) -> None:
    folder = cut(golden_dir / name, tmp_path)
    done = replay(folder)
    assert done.exit_code == 0, done.output
    (file,) = folder.glob("*.json") if name in POLICIES else [folder / "cases.json"]
    content = json.loads(file.read_text())
    for case in content["cases"] if name in POLICIES else content:
        changed = list(answers(case))
        assert changed
        for tokens in changed:
            # Another token of the vocabulary, and never the mask.
            tokens[len(tokens) // 2] = (tokens[len(tokens) // 2] + 1) % 400
    write(file, content)
    (recorded,) = read(folder)
    done = replay(folder)
    assert done.exit_code == 1
    assert done.output.endswith(f": 0 of {len(recorded.cases)}\n"), done.output
    assert done.output.count(", recorded is ") == len(recorded.cases)


@pytest.mark.long
@pytest.mark.parametrize("name", [*FOLDERS, *POLICIES])
def test_every_recorded_case_comes_again(golden_dir: Path, name: str) -> None:
    done = replay(golden_dir / name)
    assert done.exit_code == 0, done.output
