"""A policy that raises an error on some prompts: it costs its own answers, and that is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq
import pytest
from torch import Tensor

from skipstone import Engine, Model, PolicyError, Settings, Threshold
from skipstone.canvas import Geometry, StepContext
from skipstone.diff.agreement import Question
from skipstone.leaderboard.board import ALL, board
from skipstone.leaderboard.columns import markdown, rows, write_parquet
from skipstone.leaderboard.page import render
from skipstone.leaderboard.protocol import Contender, Protocol
from skipstone.sweep.executors import Serial, Units
from skipstone.sweep.grid import Setting
from skipstone.sweep.measure import NOT_FINISHED
from skipstone.sweep.run import Sweep, exact, run_sweep
from skipstone.sweep.units import WorkerSetup
from skipstone.sweep.worker import Found
from skipstone.unmask import Scores, UnmaskSession

BASE = exact(Settings(gen_length=6, block_length=6, eos_stop=False))
QUESTIONS = [
    Question("one", answer="a", family="short"),
    Question("two", answer="b", family="short"),
    Question("a far longer prompt than the others", answer="c", family="long"),
]


@dataclass(frozen=True)
class Late(Threshold):
    """Raises on prompts of some lengths, which a first trial need not have."""

    value: float = 0.3
    least: int = 0
    most: int = 999

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        if any(self.least <= at.prompt_length <= self.most for at in context.requests):
            raise RuntimeError(f"not <b>{self.least}</b>")
        return super().select(scores, context)


@dataclass(frozen=True)
class Flaky(Threshold):
    """Answers once, and raises an error when it is run again."""

    value: float = 0.0
    runs: ClassVar[set[int]] = set()

    def start(self, geometry: Geometry) -> UnmaskSession:
        self.runs.add(len(self.runs))
        if len(self.runs) > 1:
            raise RuntimeError("once is enough")
        return super().start(geometry)


def protocol_of(**policies: Threshold) -> Protocol:
    settings = {"good": Threshold(0.3), **policies}
    entries = [
        Contender("unmask", name, "", Setting(name, BASE.replace(unmask=policy)))
        for name, policy in settings.items()
    ]
    return Protocol(BASE, tuple(entries), ())


def swept(model: Model, run: Protocol, folder: Path, executor: Serial | None = None) -> Sweep:
    return run_sweep(
        model, QUESTIONS, run.settings, folder, baseline=run.baseline, executor=executor
    )


def test_an_error_is_the_row_of_its_answer_and_all_others_are_there(
    tiny: Model, tmp_path: Path
) -> None:
    long = len(tiny.text.encode(QUESTIONS[2].prompt))
    late, timed = Late(least=long), Late(most=long - 1)
    run = protocol_of(late=late, timed=timed, always=Late())
    sweep, alone = swept(tiny, run, tmp_path / "a"), swept(tiny, protocol_of(), tmp_path / "b")
    raised = [(m.prompt, m.setting) for m in sweep.measurements if m.raised]
    always = [(prompt, "always") for prompt in range(3)]
    assert sorted(raised) == sorted([(2, "late"), (0, "timed"), (1, "timed"), *always])
    timeless = {"seconds": 0.0, "tokens_per_second": 0.0}
    good = [m for m in sweep.measurements if m.setting in ("baseline", "good")]
    assert [asdict(m) | timeless for m in good] == [
        asdict(m) | timeless for m in alone.measurements
    ]

    found = board(sweep, run)
    lines = {line.summary.setting: line for line in found.of(ALL)}
    assert set(lines) == {"baseline", "good", "late", "timed"}
    summary = lines["late"].summary
    assert (summary.prompts, summary.raised, summary.known) == (3, 1, 3)
    assert summary.differing == 1 + sum(
        m.setting == "good" and not m.same_answer for m in good if m.prompt < 2
    )
    forwards = [m.forwards for m in good if m.setting == "good" and m.prompt < 2]
    assert summary.forwards == sum(forwards) / 2
    assert summary.seconds > 0
    assert lines["late"].causes["raised"] == 1
    assert "late" not in {line.summary.setting for line in found.of("long")}

    assert len(sweep.raised) == 3
    assert sweep.raised[0].startswith(
        "late has no answer to 1 of 3 prompts, which count as changed; work and times are those of "
        "the others: the unmask policy "
    )
    assert (
        "always has no answer to 3 of 3 prompts, which count as changed; it has no line"
        in (sweep.raised[2])
    )
    none = [row for row in rows(found) if row["right"] is None]
    assert [(row["family"], row["setting"], row["raised"], row["causes"]) for row in none] == [
        (ALL, "always", 3, "raised 3"),
        ("short", "timed", 2, "raised 2"),
        ("short", "always", 2, "raised 2"),
        ("long", "late", 1, "raised 1"),
        ("long", "always", 1, "raised 1"),
    ]
    assert len(rows(found)) == 3 * 5
    write_parquet(found, tmp_path / "board.parquet")
    assert pq.read_table(tmp_path / "board.parquet").to_pylist() == rows(found)
    assert "## Raised errors\n\n- late has no answer to 1 of 3" in markdown(found, "about")
    html = render(found, sweep, "about", tiny)
    assert "not &lt;b&gt;" in html
    assert "<b>" not in html
    assert "Raised errors" in html


def test_a_sweep_with_errors_goes_on_where_it_was(tiny: Model, tmp_path: Path) -> None:
    class Nothing(Serial):
        def run(self, model: Model, plan: WorkerSetup, units: Units) -> Iterator[Found]:
            assert not units(1)
            yield from ()

    run = protocol_of(always=Late())
    first = swept(tiny, run, tmp_path)
    again = swept(tiny, run, tmp_path, Nothing())
    assert repr(again.measurements) == repr(first.measurements)
    assert again.raised == first.raised


def test_a_table_of_which_all_policies_raise_says_so(tiny: Model, tmp_path: Path) -> None:
    run = replace(protocol_of(always=Late()), entries=protocol_of(always=Late()).entries[1:])
    found = board(sweep := swept(tiny, run, tmp_path), run)
    assert [line.summary.setting for line in found.of(ALL)] == ["baseline"]
    assert [row["setting"] for row in rows(found)] == ["baseline"] * 3 + ["always"] * 3
    assert "it has no line" in markdown(found, "about")
    assert "it has no line" in render(found, sweep, "about", tiny)


def test_an_error_of_the_exact_run_ends_the_sweep(tiny: Model, tmp_path: Path) -> None:
    run = protocol_of()
    broken = replace(run, baseline=BASE.replace(unmask=Late()))
    with pytest.raises(PolicyError, match="raised RuntimeError"):
        swept(tiny, broken, tmp_path)


def test_an_error_when_the_cause_is_looked_for_costs_the_cause_alone(
    tiny: Model, tmp_path: Path
) -> None:
    flaky = protocol_of(flaky=Flaky()).settings[1:]
    sweep = run_sweep(tiny, QUESTIONS[1:2], flaky, tmp_path, baseline=BASE, explain=1)
    found = sweep.measurements[1]
    expected = Engine(tiny, BASE.replace(unmask=Threshold(0.0))).generate(QUESTIONS[1].prompt)
    assert (found.tokens, found.cause, found.raised) == (expected.tokens, NOT_FINISHED, False)
    assert "raised RuntimeError: once is enough" in found.evidence
