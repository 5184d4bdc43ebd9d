"""The fuzz harness finds what it is for, and 500 cases of it find nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import click
import pytest

from skipstone.cli.main import COMMANDS, skipstone
from skipstone.record import StoredTrace
from tests.conftest import ROOT
from tests.fuzz import corpus, every, sound, workers
from tests.fuzz.__main__ import choose
from tests.fuzz.case import Act, Kind, Outcome, Scene, call, command, judged
from tests.fuzz.kinds import arguments
from tests.fuzz.mutate import broken_bytes, broken_json, flipped
from tests.fuzz.workers import Case, Found, carry_out


def run_cases(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--jobs", "1", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_500_cases_find_nothing(tmp_path: Path) -> None:
    done = run_cases("--cases", "500", "--store", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n") > len(every.KINDS)
    # It goes on where it was; here nothing is left.
    again = run_cases("--cases", "500", "--store", str(tmp_path))
    assert again.returncode == 0
    assert "500 of 500 cases are known already" in again.stdout


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    sound.build(folder)
    return folder


@pytest.mark.parametrize("name", corpus.ENTRIES)
def test_no_fault_of_the_past_comes_back(
    name: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    outcome = corpus.check(name, Scene(Random(0), 0, tmp_path, inputs))
    assert not outcome.finding, f"{outcome.finding}: {outcome.detail}"


# --- controls: what is planted is found -----------------------------------------------------------


def hangs(scene: Scene) -> Outcome:
    while True:
        pass


def waits(scene: Scene) -> Outcome:
    time.sleep(60)
    return Outcome(refused=False)


def grows(scene: Scene) -> Outcome:
    kept = bytearray(200_000_000)
    kept[::4096] = b"x" * len(kept[::4096])
    time.sleep(0.2)
    return Outcome(refused=False)


def grows_and_shrinks(scene: Scene) -> Outcome:
    """Faster than anybody looks."""
    kept = bytearray(200_000_000)
    kept[::4096] = b"x" * len(kept[::4096])
    return Outcome(refused=len(kept) < 0)


def dies(scene: Scene) -> Outcome:
    os._exit(3)


def fails(scene: Scene) -> Outcome:
    return call(lambda: 1 // 0)


PLANTED: dict[str, tuple[Act, str]] = {
    "hangs": (hangs, "hang"),
    "waits": (waits, "hang"),
    "grows": (grows, "memory"),
    "grows and shrinks": (grows_and_shrinks, "memory"),
    "dies": (dies, "died"),
    "fails": (fails, "traceback"),
    "is well": (lambda scene: Outcome(refused=True), ""),
}


@pytest.mark.skipif(sys.platform != "linux", reason="measures processes by /proc")
def test_what_hangs_grows_dies_or_fails_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, (act, _) in PLANTED.items():
        monkeypatch.setitem(every.KINDS, name, Kind(name, act, 1))
    monkeypatch.setattr(workers, "GROWTH", 100 * 2**20)
    # Where a bar is low, a busy machine may hold up other cases for as long.
    low, found = {"hangs": ("SECONDS", 0.5), "waits": ("WAITING", 0.5)}, list[Found]()
    for name in PLANTED:
        with monkeypatch.context() as patch:
            if name in low:
                patch.setattr(workers, *low[name])
            found += carry_out([Case(name, 0)], 1, tmp_path, tmp_path / "scratch")
    assert {one.kind: one.finding for one in found} == {n: f for n, (_, f) in PLANTED.items()}
    (well,) = (one for one in found if one.kind == "is well")
    assert well.refused


@pytest.mark.parametrize(
    ("code", "out", "err", "finding"),
    [
        (2, "", "skipstone: error: no; do this\n", ""),
        (2, "", "note: so\nskipstone: error: no; do this\n", ""),
        (2, "", "no\n", "no error line"),
        (2, "", "", "no error line"),
        (2, "", f"skipstone: error: {'x' * 500}\n", "long error"),
        (2, "", "skipstone: error: internal error: KeyError: 'x'\n", "internal error"),
        (2, "", "Traceback (most recent call last):\n  x\nskipstone: error: y\n", "traceback"),
        (1, "differs\n", "", ""),
        (7, "", "", "exit code"),
        (0, "a\x1b[2J\n", "", "raw text"),
        (0, "", "note: \x9b2J\n", "raw text"),
        (0, "a\tb\n", "", ""),
    ],
)
def test_what_a_command_prints_is_judged(code: int, out: str, err: str, finding: str) -> None:
    assert judged(code, out, err).finding == finding


def test_a_changed_value_that_is_accepted_is_a_finding(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: where no checksum is looked at, the oracle sees that other content was read."""

    def outcomes(name: str) -> set[str]:
        folder = tmp_path / name
        folder.mkdir()
        for number in range(4):
            (folder / f"{number}").mkdir()
        act = every.KINDS["trace shard"].act
        return {act(Scene(Random(n), n, folder / f"{n}", inputs)).finding for n in range(4)}

    assert outcomes("checked") == {""}
    monkeypatch.setattr(StoredTrace, "has_checksums", False)
    assert "silent" in outcomes("unchecked")


def test_every_option_of_every_command_has_values_to_try() -> None:
    for name in COMMANDS:
        found = skipstone.get_command(click.Context(skipstone), name)
        assert found is not None
        for option in (p for p in found.params if isinstance(p, click.Option)):
            known = {*arguments.PLAUSIBLE, *arguments.OUTPUTS, *arguments.FILES, "--model"}
            easy = option.is_flag or isinstance(option.type, click.Choice)
            assert easy or option.opts[-1] in known, f"{name} {option.opts[-1]}"


def test_a_case_is_the_same_whenever_it_is_made() -> None:
    content, value = bytes(range(256)), {"a": [1, {"b": "c"}], "d": None}
    for number in range(50):
        one, other = Random(f"x:{number}"), Random(f"x:{number}")
        assert broken_bytes(content, one) == broken_bytes(content, other)
        assert repr(broken_json(value, one)) == repr(broken_json(value, other))
        assert flipped(content, one) != content


def test_fewer_cases_are_the_first_of_more() -> None:
    few, many = choose(500), choose(2000)
    assert len(few) == 500
    assert set(few) <= set(many)
    assert {case.kind for case in few} == set(every.KINDS)


def test_a_command_that_leaves_by_itself_is_caught() -> None:
    outcome = command(["--version"])
    assert not outcome.finding
    assert not outcome.refused
