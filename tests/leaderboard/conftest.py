"""A table of a small model, for the tests of its page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skipstone import Model, Settings, load
from skipstone.diff.agreement import Question
from skipstone.leaderboard.board import Leaderboard, board
from skipstone.leaderboard.page import render
from skipstone.leaderboard.protocol import Protocol, protocol
from skipstone.sweep.run import Sweep, run_sweep
from skipstone.testing.checkpoint import write_checkpoint

EVIL = "</title><script>alert(1)</script>"
QUESTIONS = [
    Question(f"one {EVIL}", answer="a", family=f"sums {EVIL}"),
    Question("-two", answer="b", family="names"),
]
CHOSEN = ("unmask=entropy", "cache=dual", "unmask=threshold", "skip=cosine cache=dual")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(write_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="module")
def swept(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Leaderboard]:
    base = Settings(gen_length=16, block_length=16, eos_stop=False)
    every = protocol(tiny, base, knobs=False)
    chosen = tuple(e for e in every.entries if e.setting.name in CHOSEN)
    run = Protocol(every.baseline, chosen, (f"unmask=x: {EVIL}",))
    folder = tmp_path_factory.mktemp("sweep")
    sweep = run_sweep(
        tiny, QUESTIONS, run.settings, folder, baseline=run.baseline, explain=2, reports=3
    )
    return sweep, board(sweep, run)


@pytest.fixture(scope="module")
def html(tiny: Model, swept: tuple[Sweep, Leaderboard]) -> str:
    sweep, found = swept
    changed = [replace(m, text=f"{EVIL}{m.text}", cause="x") for m in sweep.measurements]
    return render(found, replace(sweep, measurements=changed), f"about {EVIL}", tiny)
