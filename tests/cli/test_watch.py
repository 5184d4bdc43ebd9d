"""What a person at a terminal sees while a run goes on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from skipstone import Engine, Fixed
from skipstone.cli.watch import watching
from skipstone.models.load import Model


def terminal() -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, force_terminal=True, width=100, color_system="truecolor"), written


@pytest.fixture
def engine(model: Model) -> Engine:
    return Engine(model, unmask=Fixed(), gen_length=16, block_length=8, eos_stop=False)


def test_a_stream_shows_every_step_and_leaves_nothing(engine: Engine) -> None:
    console, written = terminal()
    with watching(stream=True, console=console) as observer:
        result = engine.generate([1, 2, 3], observer=observer)
    frames = written.getvalue()
    for block in range(2):
        for step in range(8):
            assert f"block {block}  step {step}" in frames
    # The last frame is erased: rich moves up and clears each of its lines.
    assert frames.endswith("\x1b[2K") or "\x1b[2K" in frames.rpartition("step 7")[2]
    assert result.tokens == engine.generate([1, 2, 3]).tokens


@pytest.mark.parametrize("batch_size", [None, 1])
def test_a_bar_counts_new_tokens(engine: Engine, batch_size: int | None) -> None:
    console, written = terminal()
    with watching(stream=False, console=console) as observer:
        engine.generate_batch([[1, 2, 3], [4]], batch_size=batch_size, observer=observer)
    assert "32/32" in written.getvalue()


def test_a_stream_ends_where_another_prompt_takes_the_place(engine: Engine) -> None:
    console, written = terminal()
    with watching(stream=True, console=console) as observer:
        engine.generate_batch([[1, 2, 3], [4]], batch_size=1, observer=observer)
    assert written.getvalue().count("block 0  step 0") == 1


def test_control_characters_do_not_reach_the_terminal(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, written = terminal()

    def token(_: int) -> str:
        return "\x1b]0;owned\x07"

    monkeypatch.setattr(engine.model.text, "token", token)
    with watching(stream=True, console=console) as observer:
        engine.generate([1, 2, 3], observer=observer)
    assert "\x1b]0;" not in written.getvalue()
    assert "owned" in written.getvalue()


def test_no_terminal_no_observer() -> None:
    for stream in (True, False):
        with watching(stream=stream, console=None) as observer:
            assert observer is None
