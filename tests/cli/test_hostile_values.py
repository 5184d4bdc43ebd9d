"""Every option of every command, with values that nobody should give: an own error, in one line.

Commands and options are those that click knows, so that a new one is tried as soon as it is there.
"""

from __future__ import annotations

import contextlib
import functools
import resource
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import click
import pytest

from skipstone import Engine, load
from skipstone.cli.main import COMMANDS, run
from skipstone.errors import SkipstoneError
from tests.cli.command_lines import params_of, sound, traces

__all__ = ["traces"]

SECONDS = 20
GIGABYTES = 6
HOSTILE = (
    "",
    " ",
    "0",
    "-1",
    "1.5",
    "1" + "0" * 18,
    "1" + "0" * 400,
    "1" + "0" * 5000,
    "-1" + "0" * 400,
    "nan",
    "inf",
    "-inf",
    "1e400",
    "²",
    "٣",
    "1_000",
    "0x10",
    "x" * 300,
    "x y" * 4_000,
    "a\0b",
    "\udcff",
    "\x1b[2J\u202e\u200b\r[red]x[/red]",
    "=",
    "a=b",
    "cache=dual cache=dual",
    "9.9",
    "1.1e5.2",
    "⟨" * 200,
)


class ReachedError(SkipstoneError):
    """The options were taken, and the long work would begin."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The embedded model is loaded once; what takes minutes is not begun."""

    def reached(*_: object, **__: object) -> None:
        raise ReachedError("reached")

    # Names that nobody has must not be looked for on a network.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cached = functools.cache(load)
    monkeypatch.setattr("skipstone.models.load.load", cached)
    monkeypatch.setattr("skipstone.cli.specs.load", cached)
    monkeypatch.setattr(Engine, "generate_batch", reached)
    monkeypatch.setattr("skipstone.sweep.run.run_sweep", reached)
    monkeypatch.setattr("skipstone.bench.gate.gate", reached)
    monkeypatch.setattr("skipstone.cli.report.write_report", reached)
    monkeypatch.setattr("skipstone.server.serving.serve", reached)
    monkeypatch.setattr("skipstone.cli.serve.cluster", reached)
    monkeypatch.setattr("skipstone.cli.diagnose.explain", reached)
    monkeypatch.chdir(tmp_path)


@contextlib.contextmanager
def bounded() -> Generator[None, None, None]:
    """At most some seconds and some gigabytes more than now."""

    def late(*_: object) -> None:
        raise AssertionError(f"took more than {SECONDS} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + GIGABYTES * 10**9, before[1]))
    was = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, was)
        resource.setrlimit(resource.RLIMIT_AS, before)


def parameters() -> Iterator[tuple[str, click.Parameter]]:
    for name in sorted(COMMANDS):
        yield from ((name, param) for param in params_of(name))


def given(name: str, arguments: list[str], param: click.Parameter, value: str) -> list[str]:
    """A command line with one parameter replaced by a value."""
    if isinstance(param, click.Argument):
        # A value that begins with a hyphen would be read as options.
        place = [p.name for p in params_of(name) if isinstance(p, click.Argument)].index(param.name)
        options = [*arguments[:place], *arguments[place + 1 :]]
        return [*options[place:], "--", *options[:place], value]
    left = list(arguments)
    for option in param.opts:
        if option in left:
            at = left.index(option)
            del left[at : at + 2]
    return [*left, f"{param.opts[-1]}={value}" if param.opts[-1].startswith("--") else value]


def valued(param: click.Parameter) -> bool:
    return isinstance(param, click.Argument) or not getattr(param, "is_flag", False)


UNWANTED = ("internal error", "Traceback", "not enough memory")


def faults_of(code: int, out: str, err: str) -> list[str]:
    """What a user should never see."""
    faults = [] if code in (0, 1, 2, 3) else [f"exit code {code}"]
    faults += [f"{word} in {err[:400]!r}" for word in UNWANTED if word in err]
    faults += [
        f"{len(line)} characters in one line" for line in err.splitlines() if len(line) > 500
    ]
    strange = {c for c in out + err if not (c.isprintable() or c in "\n\t")}
    return faults + ([f"{strange!r} was printed"] if strange else [])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("name", "param"),
    [pytest.param(n, p, id=f"{n}-{p.name}") for n, p in parameters() if valued(p)],
)
def test_a_hostile_value_is_an_error_of_its_own(
    name: str,
    param: click.Parameter,
    traces: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = list[str]()
    for value in HOSTILE:
        arguments = sound(name, traces, tmp_path)
        with bounded():
            try:
                code = run([name, *given(name, arguments, param, value)])
            except Exception as error:
                code, found = -1, [*found, f"{value[:30]!r}: {error!r}"]
        found += [f"{value[:30]!r}: {fault}" for fault in faults_of(code, *capsys.readouterr())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("count", ["1000000000", "1" + "0" * 18, "1" + "0" * 400])
def test_lengths_and_batches_beyond_the_model_are_refused_before_allocating(
    count: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Hi\nWho is Newton, physics?\n")
    with bounded():
        assert run(["generate", "Hi", "--gen-length", count]) == 2
        err = capsys.readouterr().err
        assert "more than the model's 2048" in err or "must be" in err
        few = ["--gen-length", "4", "--batch-size", count]
        assert run(["generate", "--batch-file", str(prompts), *few]) in (0, 2)
    assert faults_of(0, *capsys.readouterr()) == []


def test_no_descriptor_is_kept_by_an_error(
    capsys: pytest.CaptureFixture[str], traces: tuple[Path, Path]
) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    a, b = map(str, traces)
    lines = (
        ["show", a, "--step", "9.9"],
        ["show", a, "--sample", "5"],
        ["diff", a, b, "--sample", "5"],
        ["step", a, "--at", "9.9"],
        ["diagnose", a, b, "--sample", "5"],
        ["export", a, "--to", "perfetto", "-o", "/nowhere/x"],
    )
    for line in lines:
        assert run(line) == 2
    before = descriptors()
    kept = list[BaseException]()
    for line in lines * 20:
        try:
            run(line)
        except SkipstoneError as error:
            kept.append(error)
    assert descriptors() <= before
    assert capsys.readouterr().out == ""
