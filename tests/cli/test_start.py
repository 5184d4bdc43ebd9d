"""What the command line answers before torch is imported, and how soon."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from skipstone.cli.main import COMMANDS
from skipstone.policies import KINDS

SOON = 0.5
"""Seconds until help, a completion or a refused option is there, on a core of its own."""
TRIES = 8
"""The machine may be busy: seconds of the processor are counted, and the best of so many runs."""
HEAVY = {"torch", "scipy", "transformers", "tokenizers", "pyarrow", "altair", "pandas"}

# Runs one command line and says which modules it took, whatever it printed and however it ended.
PROGRAM = """
import json, sys
from skipstone.cli.main import main
try:
    main()
except SystemExit as stop:
    code = stop.code
tops = sorted({name.partition(".")[0] for name in sys.modules})
print("\\n" + json.dumps([code, tops]), file=sys.stderr)
"""

HELPS = ["--help", *(f"{name} --help" for name in sorted(COMMANDS))]
MISTAKES = [
    *(f"{name} --no-such-option" for name in sorted(COMMANDS)),
    "genrate Hello",
    "generate Hello --cahce dual",
    "generate Hello --cache duall",
    "trace Hello -o nowhere --unmask treshold",
    "trace Hello -o nowhere --skip cosine:skip_treshold=1",
    "compare Hello --a cache=duall --b cache=none",
    "audit --baseline skip=nun --candidate skip=none --prompts pebble --max-disagreement 1%",
    "sweep --prompts pebble --grid cache=none -o nowhere --cache duall",
]


def answer(
    *arguments: str, env: dict[str, str] | None = None
) -> tuple[int, set[str], str, str, float]:
    """Exit code, modules, output, errors and seconds of one command line in a new process."""
    started = _busy_seconds()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | (env or {}),
        check=True,
    )
    seconds = _busy_seconds() - started
    said, _, last = done.stderr.rstrip().rpartition("\n")
    code, modules = json.loads(last)
    return code, set(modules), done.stdout, said, seconds


def _busy_seconds() -> float:
    """Seconds that processes which have ended kept a core busy."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def completed(words: str) -> tuple[list[str], set[str]]:
    """What bash is offered after these words, and the modules that it took."""
    env = {
        "_SKIPSTONE_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    _, modules, out, _, _ = answer(env=env)
    return [line.partition(",")[2] for line in out.splitlines()], modules


@pytest.mark.parametrize("line", HELPS)
def test_help_of_any_command_comes_without_torch(line: str) -> None:
    code, modules, out, _, _ = answer(*line.split())
    assert code == 0
    assert "Usage: skipstone" in out
    assert not modules & HEAVY


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistyped_option_or_setting_is_refused_without_torch(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, modules, _, said, _ = answer(*line.split())
    assert code == 2
    assert said.startswith("skipstone: error: ")
    assert "unknown" in said or "has no setting" in said
    assert not modules & HEAVY
    assert not list(tmp_path.iterdir())


def test_a_shell_completes_commands_options_and_policies_without_torch() -> None:
    for words, expected in (
        ("skipstone ge", ["generate"]),
        ("skipstone ", sorted(COMMANDS)),
        ("skipstone generate --ca", ["--cache"]),
        ("skipstone sweep --exec", ["--executor"]),
        ("skipstone audit --level ", ["answer", "token", "decision"]),
        *((f"skipstone trace --{kind.name} ", kind.names()) for kind in KINDS),
        ("skipstone generate --unmask thr", ["threshold"]),
    ):
        found, modules = completed(words)
        assert found == expected, words
        assert not modules & HEAVY, words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script_of_completion(shell: str) -> None:
    code, modules, out, _, _ = answer(env={"_SKIPSTONE_COMPLETE": f"{shell}_source"})
    assert code == 0
    assert "_SKIPSTONE_COMPLETE" in out
    assert not modules & HEAVY


def test_the_control_a_command_that_decodes_takes_torch() -> None:
    _, modules, _, _, _ = answer("generate", "Hello", "--gen-length", "1", "--block-length", "1")
    assert "torch" in modules


@pytest.mark.parametrize("line", [*HELPS, "generate Hello --cahce dual"])
def test_the_answer_comes_soon(line: str) -> None:
    times = list[float]()
    while len(times) < TRIES and (not times or min(times) >= SOON):
        times.append(answer(*line.split())[-1])
    assert min(times) < SOON, times
