"""What is killed loses nothing and leaves nothing that looks finished; 20 kills of a thousand."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
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


def in_place(tell: Told) -> int:
    """A folder written where it is to be, as exports once were."""
    Path("tables").mkdir()
    for name in NAMES:
        time.sleep(0.02)
        Path("tables", name).write_text(name)
    return 0


def beside(tell: Told) -> int:
    with whole_folder(Path("tables")) as part:
        for name in NAMES:
            time.sleep(0.02)
            (part / name).write_text(name)
    return 0


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize(("act", "broken"), [(in_place, True), (beside, False)])
def test_a_folder_that_only_looks_finished_breaks_the_law(
    tmp_path: Path, act: Callable[[Told], int], broken: bool
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    assert not warm(act, whole).killed
    law, seen = _absent_or_whole("tables"), list[str]()
    for number in range(5):
        here = tmp_path / f"{number}"
        here.mkdir()
        assert warm(act, here, Moment(0.01 + number * 0.01, here)).killed
        try:
            law(here, whole, ())
        except Broken as error:
            seen.append(str(error))
    assert bool(seen) == broken


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_what_was_told_before_a_kill_is_known_after_it(tmp_path: Path) -> None:
    def tells(tell: Told) -> int:
        for number in range(100):
            tell(f"{number}")
            time.sleep(0.01)
        return 0

    ended = warm(tells, tmp_path, Moment(0.0, words=5))
    assert ended.killed
    assert ended.told[:5] == ("0", "1", "2", "3", "4")
    assert len(ended.told) < 100
