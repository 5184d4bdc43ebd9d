"""What was changed in a trace after it was recorded is seen, wherever it was changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from skipstone.record import open_trace
from tests.fuzz.trace_mutations import Mutation, content, mutations, silently_changed
from tests.helpers import synthetic_trace as made_up


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A trace of two samples with every kind of value, and one of another run of the same."""
    folder = tmp_path_factory.mktemp("recorded")
    for name in ("run.trace", "other.trace"):
        made_up.write(folder / name, forwards=5, samples=2)
        with open_trace(folder / name) as trace:
            for key in ("fresh-kv", "led", "fresh-kv"):
                trace.add_experiment(key, '{"layer": 2}', f'{{"of": "{name}"}}')
    return folder / "run.trace", folder / "other.trace"


def test_no_change_of_what_was_recorded_goes_unnoticed(
    traces: tuple[Path, Path], tmp_path: Path
) -> None:
    whole, other = traces
    with open_trace(whole) as trace:
        recorded = content(trace)
    assert not silently_changed(whole, recorded)
    # Control: another run in its place would be seen.
    assert silently_changed(other, recorded)
    cases = list(mutations(whole, other, seed=0))
    assert len(cases) > 700
    assert len({case.name for case in cases}) > 0.95 * len(cases)
    silent = {
        case.name: found for case in cases if (found := tried(case, whole, tmp_path, recorded))
    }
    assert silent == {}


def tried(case: Mutation, whole: Path, folder: Path, recorded: dict[str, bytes]) -> list[str]:
    """What a reader silently gives wrongly of a changed copy."""
    copy = folder / "copy.trace"
    shutil.copytree(whole, copy)
    try:
        case.apply(copy)
        return silently_changed(copy, recorded)
    finally:
        shutil.rmtree(copy)
