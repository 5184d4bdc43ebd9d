"""An unmask policy of another package is listed, parsed, recorded and diagnosed as ours are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from skipstone import CosineSkip, Engine, PolicyError, Settings, TraceWriter
from skipstone.canvas import StepContext
from skipstone.cli.main import run
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.diagnosis.diagnose import diagnose
from skipstone.models.load import Model
from skipstone.policies import UNMASK
from skipstone.registry import GROUP
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import ExperimentRunner, Side
from skipstone.unmask import Scores
from tests.helpers.watching import prompt_of, uneven_model
from tests.unmask import steady
from tests.unmask.steady import Steady, SteadySession

SPELLED = "steady:margin=0.05"
Select = Callable[[SteadySession, Scores, StepContext], Tensor]


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package on the path, as an installer leaves it."""
    site = tmp_path / "site"
    about = site / "steady-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: steady\nVersion: 1\n")
    entry = f"[{GROUP}]\nunmask.steady = {steady.__name__}:Steady\n"
    (about / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(str(site))
    return site


@pytest.fixture(scope="module")
def model() -> Model:
    return uneven_model(1)


def settings(**others: str) -> Settings:
    return Settings(unmask=SPELLED, gen_length=18, block_length=6, eos_stop=False).replace(
        **others  # pyrefly: ignore[bad-argument-type]
    )


def recorded(model: Model, chosen: Settings) -> Recorder:
    recorder = Recorder("full")
    Engine(model, chosen).generate(prompt_of(1, 5), observer=recorder)
    return recorder


def test_it_is_written_in_fewer_than_sixty_lines() -> None:
    assert len(Path(steady.__file__).read_text().splitlines()) < 60


def test_it_is_listed_and_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["policies"]) == 0
    assert "unmask=steady  Commit masks whose token has not changed" in capsys.readouterr().out
    policy = UNMASK.parse(SPELLED)
    assert policy == Steady(0.05)
    assert UNMASK.spell(policy) == SPELLED
    assert not policy.pure


@pytest.mark.parametrize("cache", ["none", "dual", "prefix:refresh_every=2"])
def test_its_decisions_are_recorded_and_replayed(model: Model, cache: str) -> None:
    run_of = recorded(model, settings(cache=cache)).records[0]
    assert run_of.header.settings["unmask"] == SPELLED
    rule = CommitRule.of(run_of)
    assert rule is not None
    assert [rule.commits(step) for step in run_of.steps] == [s.committed for s in run_of.steps]
    # It does remember: without the steps before, another rule would be replayed.
    assert len(run_of.steps) < 18


@pytest.mark.parametrize("skip", ["none", "cosine:skip_layer_k=3,skip_threshold=0.7"])
def test_eager_gives_what_graphs_give_and_a_batch_what_each_gives_alone(
    model: Model, skip: str
) -> None:
    chosen, prompts = settings(skip=skip), [prompt_of(n, 3 + 2 * n) for n in range(5)]
    alone = [Engine(model, chosen).generate(prompt).tokens for prompt in prompts]
    assert len(set(alone)) > 1
    # More prompts than slots: others take the slots of those that leave, which it must forget.
    for runner in ("eager", "graph"):
        engine = Engine(model, chosen, runner=runner, slots=2)
        assert [one.tokens for one in engine.generate_batch(prompts)] == alone


def too_many(select: Select) -> Select:
    """Masks are committed whether their token has changed or not."""

    def wrong(self: SteadySession, scores: Scores, context: StepContext) -> Tensor:
        self.token_BG = scores.token_BG.clone()
        return select(self, scores, context)

    return wrong


def wrong_order(select: Select) -> Select:
    """The least certain of those that were chosen stays, and the widest is left out."""

    def wrong(self: SteadySession, scores: Scores, context: StepContext) -> Tensor:
        allowed_BG = ~scores.confidence_BG.isneginf()
        right_BG = select(self, scores, context)
        flat_BG = scores.margin_BG.where(allowed_BG, torch.inf)
        worst_BG = flat_BG == flat_BG.amin(-1, keepdim=True)
        one_B1 = right_BG.sum(-1, keepdim=True) == 1
        return torch.where(one_B1, worst_BG & allowed_BG, right_BG)

    return wrong


@pytest.mark.parametrize(
    ("fault", "names"),
    [(too_many, ("over-parallel", "schedule")), (wrong_order, ("reveal-order",))],
)
def test_a_fault_in_it_is_named(
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Select], Select],
    names: tuple[str, ...],
) -> None:
    chosen = settings(cache="none")

    @contextmanager
    def faulty() -> Generator[None]:
        with monkeypatch.context() as patched:
            patched.setattr(SteadySession, "select", fault(SteadySession.select))
            yield

    a = recorded(model, chosen).trace
    with faulty():
        b = recorded(model, chosen).trace
    mine = Side(a, 0, Engine(model, chosen))
    theirs = Side(b, 0, Engine(model, chosen), faulty)
    found = diagnose(Case(a, b, ExperimentRunner(mine, theirs, model)))
    assert found.cause is not None
    assert found.cause.rule in names
    # Where the rule, replayed on B's own scores, says something else for the first time.
    rule = CommitRule.of(b.records[0])
    assert rule is not None
    first = next(s for s in b.records[0].steps if rule.commits(s) != s.committed)
    assert (found.cause.where.block, found.cause.where.step) == (first.block, first.step)
    # Control: without the fault there is none.
    same = diagnose(Case(a, a, ExperimentRunner(mine, mine, model)))
    assert same.cause is None


def test_a_trace_of_it_opens_and_is_replayed_without_torch(
    model: Model, tmp_path: Path, installed: Path
) -> None:
    writer = TraceWriter(tmp_path / "steady.trace")
    Engine(model, settings()).generate(prompt_of(1, 5), observer=Recorder(sink=writer))
    script = """
import sys
sys.modules["torch"] = None
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.record import open_trace
(run,) = open_trace(sys.argv[1]).records
rule = CommitRule.of(run)
print("not known" if rule is None else all(rule.commits(s) == s.committed for s in run.steps))
"""
    for site, said in ((str(installed), "True"), ("", "not known")):
        path = os.pathsep.join(filter(None, (site, *sys.path)))
        path = path if site else path.replace(str(installed), "")
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path / "steady.trace"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert done.stdout.strip() == said


def test_an_error_in_it_names_its_line(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SteadySession, scores: Scores, context: StepContext) -> Tensor:
        return scores.entropy_BG < 1

    monkeypatch.setattr(SteadySession, "select", broken)
    with pytest.raises(PolicyError, match=r"steady:margin=0\.05 raised .*Need\.ENTROPY"):
        Engine(model, settings(), skip=CosineSkip(3)).generate(prompt_of(1, 5))
