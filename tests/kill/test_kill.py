"""What is killed loses nothing and leaves nothing that looks finished; 20 kills of a thousand."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from skipstone.outputs import whole_folder
from tests.conftest import ROOT
from tests.kill.process import Moment, Told, warm
from tests.kill.writers import Broken, _absent_or_whole

NAMES = ("steps", "candidates", "judgements", "tensors")


def test_20_kills_break_no_law(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill", "--kills", "20", "--jobs", "1", "--store", tmp_path],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "broken:" not in done.stdout


# --- controls -------------------------------------------------------------------------------------


Writes = Callable[[Callable[[], None]], None]
"""Writes files; after each it calls what it is given."""


def in_place(written: Callable[[], None]) -> None:
    """A folder written where it is to be, as exports once were."""
    Path("tables").mkdir()
    for name in NAMES:
        Path("tables", name).write_text(name)
        written()


def beside(written: Callable[[], None]) -> None:
    with whole_folder(Path("tables")) as part:
        for name in NAMES:
            (part / name).write_text(name)
            written()


def halting(write: Writes, after: int, tell: Told) -> int:
    """Write so many files, tell so, and wait to be killed; all of them if there are no more."""
    count = 0

    def written() -> None:
        nonlocal count
        count += 1
        if count == after:
            tell("halted")
            wait_to_be_killed()

    write(written)
    return 0


def wait_to_be_killed() -> None:
    time.sleep(120)
    raise AssertionError("nobody killed this process")


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize(("write", "broken"), [(in_place, True), (beside, False)])
def test_a_folder_that_only_looks_finished_breaks_the_law(
    tmp_path: Path, write: Writes, broken: bool
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    assert warm(partial(halting, write, 0), whole).code == 0
    law, seen = _absent_or_whole("tables"), list[int]()
    for after in range(1, len(NAMES) + 1):
        here = tmp_path / f"{after}"
        here.mkdir()
        assert warm(partial(halting, write, after), here, Moment(0.0, words=1)).killed
        try:
            law(here, whole, ())
        except Broken:
            seen.append(after)
    # With its last file it is whole.
    assert seen == ([1, 2, 3] if broken else [])


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_what_was_told_before_a_kill_is_known_after_it(tmp_path: Path) -> None:
    def tells(tell: Told) -> int:
        for number in range(10):
            tell(f"{number}")
        wait_to_be_killed()
        return 0

    ended = warm(tells, tmp_path, Moment(0.0, words=5))
    assert ended.killed
    assert ended.told[:5] == ("0", "1", "2", "3", "4")
