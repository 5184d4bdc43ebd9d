"""Report pages of a sweep: which answers have one, what a stop leaves, and names of files."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from skipstone import Model, Settings, load
from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.diff.agreement import Question
from skipstone.sweep.executors import Executor, Serial, Units
from skipstone.sweep.grid import Setting
from skipstone.sweep.measure import NOT_FINISHED
from skipstone.sweep.run import Sweep, run_sweep
from skipstone.sweep.units import WorkerSetup
from skipstone.sweep.worker import Found
from skipstone.testing.checkpoint import write_checkpoint

EXACT = Settings(gen_length=16, block_length=16, eos_stop=False, cache="none", unmask="fixed")
SETTINGS = [Setting("../x <unmask>=entropy", EXACT.replace(unmask="entropy"))]
QUESTIONS = [Question(text, family="one") for text in ("two", "a", "c")]


class Elsewhere(Executor):
    """Gives what another process would give: a copy; stops after some units."""

    def __init__(self, most: int = 99) -> None:
        self.most = most

    def run(self, model: Model, plan: WorkerSetup, units: Units) -> Iterator[Found]:
        for number, found in enumerate(Serial().run(model, plan, units)):
            if number == self.most:
                raise KeyboardInterrupt
            yield pickle.loads(pickle.dumps(found))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(write_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


def swept(
    tiny: Model,
    folder: Path,
    executor: Executor,
    answers: Sequence[str] = ("", "", ""),
    explain: float = 0.5,
) -> Sweep:
    questions = [replace(q, answer=a or None) for q, a in zip(QUESTIONS, answers, strict=False)]
    return run_sweep(
        tiny,
        questions,
        SETTINGS,
        folder,
        baseline=EXACT,
        executor=executor,
        explain=explain,
        reports=5,
        time_every=1,
    )


def pages(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "reports").iterdir())


def test_a_wrong_answer_has_the_page_of_its_setting_and_family(tiny: Model, tmp_path: Path) -> None:
    any_one = swept(tiny, tmp_path / "any", Elsewhere())
    assert not any(m.same_answer for m in any_one.measurements if m.setting != "baseline")
    assert pages(tmp_path / "any") == ["000000-001-x-unmask-entropy.html"]
    assert any_one.reports == {(0, SETTINGS[0].name): "reports/000000-001-x-unmask-entropy.html"}
    wrong = swept(tiny, tmp_path / "wrong", Elsewhere(), ("", "no such answer", ""))
    assert list(wrong.reports) == [(1, SETTINGS[0].name)]
    assert pages(tmp_path / "wrong") == ["000001-001-x-unmask-entropy.html"]


def test_a_sweep_that_goes_on_keeps_its_pages_and_draws_none_twice(
    tiny: Model, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        swept(tiny, tmp_path, Elsewhere(2))
    page = tmp_path / "reports" / "000000-001-x-unmask-entropy.html"
    page.write_text("kept")
    assert list(swept(tiny, tmp_path, Elsewhere()).reports) == [(0, SETTINGS[0].name)]
    assert page.read_text() == "kept"
    page.unlink()
    assert swept(tiny, tmp_path, Elsewhere()).reports == {}


def test_an_answer_that_is_looked_at_again_has_its_page_drawn_again(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(found: Diagnosis) -> tuple[str, str, str]:
        return NOT_FINISHED, "", ""

    with monkeypatch.context() as patch:
        patch.setattr("skipstone.sweep.causes._told", told)
        short = swept(tiny, tmp_path, Elsewhere(), ("",))
    (page,) = (tmp_path / "reports").iterdir()
    page.write_text("not finished")
    assert swept(tiny, tmp_path, Elsewhere(), ("",), explain=0.6).reports == short.reports
    assert pages(tmp_path) == [page.name]
    assert page.read_text() != "not finished"
