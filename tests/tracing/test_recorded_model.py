"""The model that a trace names: no hub is asked and no folder opened because a trace says so."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from skipstone import Engine, Settings, load
from skipstone.cli.main import run
from skipstone.errors import CheckpointError
from skipstone.record import Header, TraceWriter
from skipstone.testing.checkpoint import write_checkpoint
from skipstone.tracing import Recorder
from skipstone.tracing.replay.recorded_model import recorded_model
from tests.helpers import synthetic_trace as made_up


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in a folder."""
    return write_checkpoint(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """An empty hub cache; whoever looks for a host is noted."""
    asked = list[str]()

    def refuse(host: str, *arguments: object, **more: object) -> NoReturn:
        asked.append(str(host))
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return asked


def header(model: str) -> Header:
    return replace(made_up.header(), model=model, dtype="float32")


NAMES = [
    "someone/private-model",
    "http://evil.example/model",
    "//evil.example/share",
    "\\\\evil.example\\share",
    "/etc",
    "~/model",
    "./model",
    "../model",
    "model",
    "",
    "a/b/c",
    "a/..",
    "-o/model",
    "x" * 100_000,
    "a\x00/b",
    "\x1b[2J/x",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_a_name_in_a_trace_opens_nothing_and_asks_nobody(
    name: str, offline: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as raised:
        recorded_model(header(name))
    assert offline == []
    assert len(str(raised.value)) < 500


def test_a_folder_that_looks_like_a_hub_name_is_not_opened(
    offline: list[str], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "someone").mkdir()
    (tmp_path / "someone" / "model").symlink_to(checkpoint)
    monkeypatch.chdir(tmp_path)
    assert load("someone/model").name == "someone/model"  # control: the user may say so
    for name in ("someone/model", str(checkpoint)):
        with pytest.raises(CheckpointError, match="no folder is opened because a trace says so"):
            recorded_model(header(name))
    assert offline == []


def test_the_embedded_model_is_found_by_its_name() -> None:
    assert recorded_model(header("pebble")).name == "pebble"
    with pytest.raises(CheckpointError, match="dtype 'float7' is unknown"):
        recorded_model(replace(header("pebble"), dtype="float7"))


@pytest.fixture
def traces(tmp_path: Path, checkpoint: Path) -> tuple[Path, Path]:
    """Two full traces of a model that lies in a folder."""
    paths = tmp_path / "a.trace", tmp_path / "b.trace"
    for path, cache in zip(paths, ("none", "dual"), strict=True):
        with TraceWriter(path) as sink:
            settings = Settings(cache=cache, gen_length=8, block_length=8)
            engine = Engine(load(checkpoint, dtype="float32"), settings)
            engine.generate([5, 6, 7], observer=Recorder("full", sink=sink))
    return paths


def test_commands_open_the_folder_of_a_model_only_if_the_user_names_it(
    traces: tuple[Path, Path],
    checkpoint: Path,
    offline: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    a, b = map(str, traces)
    named = ["--model", str(checkpoint)]
    for command in (
        ["diff", a, b],
        ["diagnose", a, b, "--time-limit", "20s"],
        ["report", a, b, "-o", str(tmp_path / "report.html"), "--time-limit", "0"],
        ["step", a, "--at", "0.1"],
    ):
        run(command)
        err = capsys.readouterr().err
        assert "no folder is opened because a trace says so" in err
        assert "--model" in err
        assert run([*command, *named]) in (0, 1)
        assert "no folder is opened" not in capsys.readouterr().err
    assert offline == []
