"""What commands print: nothing steers a terminal, tables fit any width, streams fail well."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from skipstone import TraceWriter
from skipstone.cli.escape import bounded, json_text, printable, readable
from skipstone.cli.main import COMMANDS, run
from skipstone.cli.streams import _guarded, _Stdout
from skipstone.cli.tables import say_table
from skipstone.text import Text
from skipstone.unmask import UnmaskPolicy
from tests.cli.command_lines import sound, traces
from tests.conftest import ROOT
from tests.helpers import signalled
from tests.helpers import synthetic_trace as made_up

__all__ = ["traces"]

EVIL = "\x1b[2J\x9b31m\u202egnp.exe\u200b\u2066\r\nfake: 1\x07[red]x[/red]\u2028\ufeff\udcff"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
NUMBER = re.compile(r"\d+\.\d+|\d+")


def is_harmless(text: str) -> bool:
    return all(c.isprintable() or c in "\n\t" for c in COLOUR.sub("", text))


@dataclass(frozen=True)
class Evil(UnmaskPolicy):
    """\x1b[2J\u202e A policy of another package."""

    evil: str = "\x1b[2J\u202e"


class Entry:
    name = f"unmask.{EVIL}"

    def load(self) -> type:
        return Evil


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch, traces: tuple[Path, Path], tmp_path: Path) -> None:
    """Every token, answer, path and policy name tries to steer the terminal."""

    def says(*_: object, **__: object) -> str:
        return EVIL

    def registered() -> list[Entry]:
        return [Entry()]

    monkeypatch.setattr(Text, "token", says)
    monkeypatch.setattr(Text, "decode", says)
    monkeypatch.setattr("skipstone.policies.registered", registered)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("colours", ["", "1"])
@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"bench", "serve"}))
def test_no_command_lets_a_text_steer_the_terminal(
    name: str,
    colours: str,
    traces: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", colours)
    line = [
        EVIL.replace("\udcff", "") if word == "Hi" else word
        for word in sound(name, traces, tmp_path)
    ]
    (tmp_path / "prompts.txt").write_text("Hi \x1b[2J\u202e\n", encoding="utf-8")
    more = list[list[str]]([[]] if name in ("export", "report") else [["--json"], []])
    for extra in more:
        words = [
            str(tmp_path / f"out{len(extra)}") if w.endswith(("/out.trace", "/sweep")) else w
            for w in line
        ]
        code = run([name, *words, *extra])
        out, err = capsys.readouterr()
        assert code in (0, 1, 3), err
        assert is_harmless(out), out
        assert is_harmless(err), err
        if extra:
            assert all(json.loads(text) is not None for text in out.splitlines())
    for option in (f"--{EVIL}", f"--model={EVIL}"):
        run([name, *line, option])
        assert is_harmless("".join(capsys.readouterr()))


def test_an_evil_trace_is_shown_and_compared_without_harm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = EVIL
    paths = [str(tmp_path / name) for name in ("a.trace", "b.trace")]
    for path, more in zip(paths, ("", "!"), strict=True):
        header = replace(made_up.header(), model=text + more, settings={text: text + more})
        with TraceWriter(path) as sink:
            sink.begin([header], "decisions")
            sink.step(0, made_up.step(len(more)), {})
            sink.end([replace(made_up.outcome(), text=text)])
    for colours in ("", "1"):
        monkeypatch.setenv("FORCE_COLOR", colours)
        for line in (["show", paths[0], "--steps", "--events"], ["diff", *paths]):
            assert run(line) in (0, 1)
            assert is_harmless("".join(capsys.readouterr()))


def test_an_answer_keeps_its_lines_and_tabs_and_nothing_else() -> None:
    assert readable("a\n\tb\x1b[2J") == "a\n\tb\\x1b[2J"
    assert readable("说明\u3000é 👩") == "说明\u3000é 👩"
    assert printable("a\nb\tc\r\nd") == "a b c d"
    assert printable("\u202e\u200b\u2028\U000e0041\u3164") == r"\u202e\u200b\u2028\U000e0041\u3164"
    assert json.loads(json_text({"x": EVIL, "n": float("nan")})) == {"x": EVIL, "n": None}
    assert is_harmless(json_text([EVIL, "é"]))
    assert json_text("é", "ascii") == r'"\u00e9"'


@pytest.mark.parametrize("value", ["x" * 100_000, "x y " * 30_000, "'" * 9_999, "\x1b" * 5_000])
def test_a_long_error_keeps_its_beginning_and_its_remedy(value: str) -> None:
    line = bounded(f"--option is {value!r}, must be a whole number; leave it out")
    assert len(line) <= 480
    assert line.startswith("--option is ")
    assert line.endswith("must be a whole number; leave it out")


@pytest.mark.parametrize("columns", [40, 57, 80, 120, 300])
def test_show_fits_any_width_and_never_cuts_a_number(
    columns: int,
    traces: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trace = str(traces[0])
    wanted = dict[str, set[str]]()
    for more in (["--steps"], ["--step", "0.0", "--ids"]):
        monkeypatch.setenv("COLUMNS", "1000")
        assert run(["show", trace, *more]) == 0
        whole = capsys.readouterr().out
        monkeypatch.setenv("COLUMNS", str(columns))
        assert run(["show", trace, *more]) == 0
        folded = capsys.readouterr().out
        assert max(map(len, folded.splitlines())) <= columns
        # A path may be folded anywhere; what is measured may not.
        table = whole[whole.index("\n\n") :]
        wanted[more[0]] = set(NUMBER.findall(table)) - set(NUMBER.findall(folded))
    assert wanted == {"--steps": set(), "--step": set()}
    assert "…" not in folded


def test_numbers_of_a_table_that_differ_do_not_look_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(0, 1 - 3.1e-9, 1.0), (1, 1 - 3.2e-9, 1 - 3.1e-9)]
    for columns in ("12", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        say_table(["n", "confidence", "bound"], rows, alike=["confidence", "bound"])
        out = capsys.readouterr().out
        assert re.findall(r"1 - [\d.e-]+", out).count("1 - 3.1e-9") == 2
        assert re.findall(r"1 - [\d.e-]+", out).count("1 - 3.2e-9") == 1


def test_a_table_goes_on_below_with_its_keys(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    names = [f"column {i}" for i in range(12)]
    say_table(["row", *names], [[r, *(r * 1000.123456 + i for i in range(12))] for r in range(3)])
    parts = capsys.readouterr().out.split("\n\n")
    assert len(parts) > 2
    assert all(re.search(r"^  0 ", part, re.M) or part.lstrip().startswith("row") for part in parts)


def test_the_terminal_s_colours_are_the_user_s(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for no, force, coloured in (
        ("", "", False),
        ("", "1", True),
        ("1", "1", False),
        ("", "0", False),
    ):
        monkeypatch.setenv("NO_COLOR", no)
        monkeypatch.setenv("FORCE_COLOR", force)
        assert run(["policies"]) == 0
        assert ("\x1b[" in capsys.readouterr().out) == coloured


# --- streams that take nothing


@contextmanager
def stdout_to(write_to: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stdout as ``guard_streams`` makes it, on another descriptor; what it keeps is dropped."""
    stream = _guarded(_Stdout(write_to, "w", closefd=False), sys.stdout)

    def drop() -> None:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), write_to)

    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        patched.setattr("skipstone.cli.main.drop_output", drop)
        try:
            yield
        finally:
            drop()
            stream.close()
            os.close(write_to)


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def reader_that_left() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


SILENT = ("export", "report")


@pytest.mark.parametrize("more", ["", "--json", "--verify"])
@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"bench", "serve"}))
def test_every_command_that_prints_fails_on_a_full_disk_and_not_for_a_reader_that_left(
    name: str,
    more: str,
    traces: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if (more == "--verify" and name != "show") or (more and name in SILENT):
        pytest.skip("has no such option")
    for number, (stream, code) in enumerate([(full_disk, 2), (reader_that_left, 0)]):
        here = tmp_path / str(number)
        here.mkdir()
        line = [name, *sound(name, traces, here), *filter(None, [more])]
        with stdout_to(stream(), monkeypatch):
            found = run(line)
        err = capsys.readouterr().err
        assert found == (0 if name in SILENT else code), err
        complaints = [text for text in err.splitlines() if "error" in text]
        if found == 2:
            assert len(complaints) == 1
            assert "error: standard output cannot be written (" in complaints[0]
        else:
            assert complaints == []


# --- processes

SKIPSTONE = [sys.executable, "-m", "skipstone"]


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which ``skipstone`` is this one."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'skipstone() {{ {" ".join(SKIPSTONE)} "$@"; }}; {line}'],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        timeout=120,
    )


@pytest.mark.parametrize("command", ["policies", "--help", "generate Hi --gen-length 4"])
def test_stdout_that_takes_nothing_is_an_error_and_a_reader_that_left_is_none(command: str) -> None:
    for to in (">/dev/full", ">&-"):
        done = shell(f"skipstone {command} {to}")
        assert done.returncode == 2
        assert done.stderr.startswith("skipstone: error: standard output cannot be written (")
        assert len(done.stderr.splitlines()) == 1
    done = shell(f"skipstone {command} | true")
    assert (done.returncode, done.stderr.count("error")) == (0, 0)
    for to in ("2>/dev/full", "2>&-", "<&-"):
        done = shell(f"skipstone {command} {to}")
        assert done.returncode == 0
        assert done.stdout
    done = shell(f"skipstone {command} >&- 2>&- <&-")
    assert done.returncode == 2


def test_a_c_locale_gets_errors_and_answers_of_our_own() -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    plain |= {"PYTHONIOENCODING": "ascii"}
    for line in (
        "skipstone generate 'Héllo …' --gen-length 4",
        "skipstone generate $'H\\xff' --gen-length 4",
        "skipstone compare 'né' --a cache=none --b cache=dual --gen-length 4",
        "skipstone generate --modél x Hi",
        "skipstone show /né/ü.trace",
        f"skipstone generate {'é' * 400} --cache {'é' * 400}",
    ):
        done = shell(line, **plain)
        assert done.returncode in (0, 2), done.stderr
        assert "internal error" not in done.stderr
        assert "Traceback" not in done.stderr
        assert all(len(text) <= 500 for text in done.stderr.splitlines())


def test_a_c_locale_decodes_the_prompt_that_was_typed() -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    typed = "skipstone generate 'né 您好' --gen-length 4 --json"
    found, wanted = (
        json.loads(shell(typed, **environment).stdout)
        for environment in (plain, {"PYTHONUTF8": "1"})
    )
    assert found["prompt"] == wanted["prompt"] == "né 您好"
    assert found["tokens"] == wanted["tokens"]
    refused = shell("skipstone generate $'H\\xff' --gen-length 4", **plain)
    assert refused.returncode == 2
    assert "not valid Unicode" in refused.stderr


@pytest.mark.parametrize(
    "place",
    [
        "skipstone.cli.main",
        "torch",
        "torch.nn",
        "skipstone.engine.driver",
        "skipstone.engine.driver:Driver._turn",
    ],
)
def test_ctrl_c_is_130_also_while_torch_is_imported(place: str) -> None:
    slow = ["generate", "Hi", "--gen-length", "400", "--unmask", "fixed", "--no-eos-stop"]
    done = subprocess.run(
        signalled.command(signal.SIGINT, place, *slow),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 130
    assert done.stderr.strip() == "skipstone: error: interrupted"
