"""The leaderboard: what is in it, what it says, what survives a stop, and why answers changed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from skipstone import Model, Settings, Threshold, load
from skipstone.cache import CachePolicy
from skipstone.canvas import Geometry, StepContext
from skipstone.cli.main import run
from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.diagnosis.finding import Proof
from skipstone.diff.agreement import Question
from skipstone.knob import Knob
from skipstone.leaderboard.board import ALL, Leaderboard, board
from skipstone.leaderboard.columns import markdown
from skipstone.leaderboard.protocol import Contender, Protocol, protocol, sampled, short
from skipstone.policies import KINDS, UNMASK
from skipstone.registry import GROUP
from skipstone.rows import Rows
from skipstone.skip import SkipPolicy, SkipSession
from skipstone.sweep.causes import Explained
from skipstone.sweep.grid import Setting
from skipstone.sweep.measure import NOT_FINISHED
from skipstone.sweep.run import Sweep, exact, run_sweep
from skipstone.sweep.units import CauseUnit, WorkerSetup
from skipstone.tracing.diagnose import examined
from skipstone.tracing.experiments.runner import Side
from skipstone.unmask import HostScores, UnmaskPolicy

BASE = Settings(gen_length=8, block_length=4, eos_stop=False)
QUESTIONS = [
    Question("one", answer="a", family="sums|x"),
    Question("two", family="sums|x"),
    Question("three", answer="b", family="names"),
]


@dataclass(frozen=True)
class Eager(Threshold):
    """A policy of another package, which nothing here knows."""

    value: float = 0.4
    knob = Knob("value", (0.0,))


@dataclass(frozen=True)
class Lazy(CachePolicy):
    """A cache of another package: all rows at first, and then the block's alone, for ever."""

    def rows(self, context: StepContext) -> Rows:
        first, later = context.split(lambda at: at.forward == 0)
        return first.changed_rows().beside(later.block_rows())


class _EveryOther:
    """Lets every other row leave after the first layer."""

    scores: None = None
    decides_after = (1,)

    def expect(self, rows: Rows) -> None:
        pass

    def learn(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> None:
        pass

    def forget(self, request: int) -> None:
        pass

    def keep(self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext) -> Tensor:
        return rows.position_N % 2 == 0


@dataclass(frozen=True)
class EveryOther(SkipPolicy):
    """A skip of another package."""

    def start(self, geometry: Geometry) -> SkipSession:
        return _EveryOther()


@dataclass(frozen=True)
class Broken(UnmaskPolicy):
    """One that decides nothing."""


@pytest.fixture(scope="module")
def pebble() -> Model:
    return load("pebble")


def names(found: Protocol) -> set[str]:
    return {entry.setting.name for entry in found.entries}


def test_every_policy_is_in_it_at_its_default_alone_and_with_the_dual_cache(pebble: Model) -> None:
    found = protocol(pebble, BASE)
    assert found.baseline == BASE.replace(cache="none", unmask="fixed", skip="none")
    published = {(e.kind, e.policy) for e in found.entries if e.published}
    wanted = {(k.name, name) for k in KINDS for name in k.known() if name != "none"}
    # fixed is the exact run, and cache=dual beside it the cache's own line.
    assert wanted - {("unmask", "fixed")} == published - {
        p for p in published if p[0] == "settings"
    }
    for entry in found.entries:
        if entry.kind in ("unmask", "skip") and "cache=" not in entry.setting.name:
            beside = entry.setting.settings.replace(cache="dual")
            assert beside in {s.settings for s in found.settings}, entry
    assert len({s.settings for s in found.settings}) == len(found.entries) == len(names(found))


def test_a_knob_names_a_setting_of_its_policy_and_values_that_are_allowed(pebble: Model) -> None:
    found = protocol(pebble, BASE)
    for kind in KINDS:
        for name, policy in kind.known().items():
            knob = getattr(policy, "knob", None)
            values = {e.value for e in found.entries if (e.kind, e.policy) == (kind.name, name)}
            if knob is not None:
                assert {f"{knob.setting}={value}" for value in knob.values} <= values
                assert getattr(policy(), knob.setting) not in knob.values
    assert all(e.published for e in protocol(pebble, BASE, knobs=False).entries)


def test_a_policy_of_another_package_is_in_it_without_a_change(
    monkeypatch: pytest.MonkeyPatch, pebble: Model
) -> None:
    entry = EntryPoint("unmask.eager", f"{__name__}:Eager", GROUP)
    monkeypatch.setattr("skipstone.policies.registered", lambda: [entry])
    found = {"unmask=eager", "unmask=eager:value=0.0"}
    assert found | {f"{name} cache=dual" for name in found} <= names(protocol(pebble, BASE))


def test_a_cache_and_a_skip_of_another_package_are_in_it_without_a_change(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, tmp_path: Path
) -> None:
    given = {"cache.lazy": "Lazy", "skip.every_other": "EveryOther"}
    entries = [EntryPoint(name, f"{__name__}:{of}", GROUP) for name, of in given.items()]
    monkeypatch.setattr("skipstone.policies.registered", lambda: entries)
    found = protocol(tiny, Settings(gen_length=16, block_length=8, eos_stop=False), knobs=False)
    theirs = ("cache=lazy", "skip=every_other", "skip=every_other cache=dual")
    assert set(theirs) <= names(found)
    asked = replace(found, entries=tuple(e for e in found.entries if e.setting.name in theirs))
    folder, endless = tmp_path / "sweep", float("inf")
    sweep = run_sweep(
        tiny, QUESTIONS, asked.settings, folder, baseline=asked.baseline, explain=endless
    )
    made = board(sweep, asked)
    text = markdown(made, "about")
    assert all(name.replace("_", "\\_") in text for name in theirs)
    lines = {line.summary.setting: line for line in made.of(ALL)}
    assert all(lines[name].summary.skip_share > 0 for name in theirs[1:])
    changed = [m for name in theirs for m in lines[name].changed]
    assert lines["cache=lazy"].changed
    assert all(m.cause and m.proof for m in changed), [(m.cause, m.evidence) for m in changed]


def test_what_does_not_fit_is_left_out_and_said(tiny: Model) -> None:
    left_out = protocol(tiny, BASE).left_out
    assert any(t.startswith("skip=cosine: ") and "beyond the 2 layers" in t for t in left_out)


def test_a_policy_that_raises_is_left_out_and_ends_no_others(
    monkeypatch: pytest.MonkeyPatch, tiny: Model
) -> None:
    entry = EntryPoint("unmask.broken", f"{__name__}:Broken", GROUP)
    monkeypatch.setattr("skipstone.policies.registered", lambda: [entry])
    found = protocol(tiny, BASE)
    assert any("Broken has neither select nor start" in text for text in found.left_out)
    assert not any("broken" in name for name in names(found))


@dataclass(frozen=True)
class Knobs(Eager):
    """Refuses a value of its knob, which another setting has."""

    knob = Knob("valeu", (0.5,))


@dataclass(frozen=True)
class Unmakeable(Eager):
    """Has no default that it takes."""

    def __post_init__(self) -> None:
        raise OSError("no disk")


@dataclass(frozen=True)
class Loose(Eager):
    """Its settings have no hash."""

    several: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Labelled(Eager):
    """Has a setting of text; a comma ends a setting."""

    label: str = "a,b"
    knob = Knob("label", ("x=y", "x,y=z", " x"))


@dataclass(frozen=True)
class BadReplay(Eager):
    """Replays to no choice."""

    def replay(self, scores: HostScores) -> np.ndarray:
        return scores.confidence_C


@dataclass(frozen=True)
class BadBound(Eager):
    """Its bound is no number."""

    def bound(self, scores: HostScores) -> np.ndarray:
        return np.array("high")


def test_what_is_wrong_with_policies_of_others_is_said_and_costs_their_lines_alone(
    monkeypatch: pytest.MonkeyPatch, tiny: Model
) -> None:
    targets = {
        "unmask.knobs": f"{__name__}:Knobs",
        "unmask.unmakeable": f"{__name__}:Unmakeable",
        "unmask.loose": f"{__name__}:Loose",
        "unmask.labelled": f"{__name__}:Labelled",
        "unmask.bad_replay": f"{__name__}:BadReplay",
        "unmask.bad_bound": f"{__name__}:BadBound",
        "unmask.gone": "no.such:Thing",
        "unmask.quota": f"{__name__}:Eager",
        "unmask.a,b": f"{__name__}:Eager",
        "cache.eager": f"{__name__}:Eager",
        "unmasks.eager": f"{__name__}:Eager",
    }
    entries = [EntryPoint(name, target, GROUP) for name, target in targets.items()]
    before = names(protocol(tiny, BASE))
    monkeypatch.setattr("skipstone.policies.registered", lambda: entries)
    found = protocol(tiny, BASE)
    # Which of two is meant by one name, nobody knows.
    rest = {name for name in before if not name.startswith("unmask=quota")}
    theirs = ("unmask=knobs", "unmask=labelled", "unmask=labelled:label=x=y")
    assert names(found) == rest | {*theirs, *(f"{name} cache=dual" for name in theirs)}
    told = "\n".join(found.left_out)
    for said in (
        "unmask=knobs:valeu=0.5: ",
        "unmask=unmakeable: unmask policy 'unmakeable' refuses its settings: OSError: no disk",
        "replay of the unmask policy bad_replay gives ",
        "the unmask policy bad_bound raised ValueError: could not convert",
        "unmask=loose: unhashable type: 'list'; make it a frozen dataclass",
        "unmask=labelled:label=x,y=z: 'labelled:label=x,y=z' cannot be read back",
        "unmask=labelled:label= x: 'labelled:label= x' cannot be read back",
        "'unmask.gone' cannot be imported (ModuleNotFoundError: No module named 'no')",
        "'unmask.quota' takes the name of another policy",
        "'unmask.a,b' has no name of letters",
        "'cache.eager' is no cache policy; derive it from skipstone.cache.CachePolicy",
        "'unmasks.eager' is of no kind; name it one of cache.NAME, unmask.NAME, skip.NAME",
    ):
        assert said in told


def test_a_policy_whose_name_is_no_text_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, tmp_path: Path
) -> None:
    entry = EntryPoint("unmask.eag\udce9r", f"{__name__}:Eager", GROUP)
    monkeypatch.setattr("skipstone.policies.registered", lambda: [entry])
    prompts = tmp_path / "p.txt"
    prompts.write_text("a\n")
    command = ["leaderboard", "--quick", "--prompts", str(prompts), "--model", tiny.name]
    assert run([*command, "--gen-length", "4", "-o", str(tmp_path / "o")]) == 0
    for name in ("board.md", "board.html"):
        assert "eag\\udce9r" in (tmp_path / "o" / name).read_text("utf-8").replace("\\\\", "\\")


def test_families_take_turns_and_more_of_them_go_on_where_fewer_end() -> None:
    ordered, wanted = sampled(QUESTIONS, 1)
    assert [q.prompt for q in ordered] == ["one", "three", "two"]
    assert wanted == 2
    assert sampled(QUESTIONS, None) == (ordered, 3)
    assert sampled(QUESTIONS, 9) == (ordered, 3)


def test_a_quick_run_takes_answers_that_fit(tiny: Model) -> None:
    long = Question("q", answer="word " * 50)
    assert short([long, *QUESTIONS], tiny, 16) == [QUESTIONS[0], QUESTIONS[2]]
    assert short([long], tiny, 16) == [long]


def test_lines_say_what_changed_and_why(tiny: Model, tmp_path: Path) -> None:
    base = BASE.replace(gen_length=16, block_length=16)
    every = protocol(tiny, base, knobs=False)
    chosen = tuple(e for e in every.entries if e.setting.name in ("unmask=entropy", "cache=dual"))
    asked = Protocol(every.baseline, chosen, ("unmask=x: a | b",))
    sweep = run_sweep(
        tiny,
        QUESTIONS,
        asked.settings,
        tmp_path / "sweep",
        baseline=asked.baseline,
        explain=float("inf"),
    )
    found = board(sweep, asked)
    assert found.families == [ALL, "sums|x", "names"]
    exact, *lines = found.of(ALL)
    assert exact.entry.kind == "exact"
    assert exact.flops == 1.0
    assert not exact.changed
    lengths = [len(tiny.text.encode(q.prompt)) + 16 for q in QUESTIONS]
    assert exact.summary.rows == exact.summary.forwards * sum(lengths) / 3
    changed = [m for line in lines for m in line.changed]
    assert changed
    for m in changed:
        assert m.kind
        assert m.cause
        assert m.cause == "inconclusive" or m.proof
    for m in sweep.measurements:
        assert bool(m.cause) == (not m.same_answer)
    for line in lines:
        assert sum(line.causes.values()) == line.summary.differing == len(line.changed)
        assert line.summary.differing == sum(
            one.summary.differing
            for family in ("sums|x", "names")
            for one in found.of(family)
            if one.entry == line.entry
        )
    text = markdown(found, "about")
    assert "sums\\|x" in text
    assert "- unmask=x: a \\| b" in text


def test_the_quick_command_runs_end_to_end_and_says_the_same_again(
    tiny: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet as pq

    prompts = tmp_path / "p.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": p, "family": p}) + "\n" for p in "abc"))
    command = ["leaderboard", "--quick", "--prompts", str(prompts), "--model", tiny.name]
    command += ["--gen-length", "6", "-o", str(tmp_path / "o")]
    assert run([*command, "--json"]) == 0
    out = capsys.readouterr()
    assert "left out: skip=cosine" in out.err
    report = json.loads(out.out)
    assert report["prompts"] == 2
    rows = pq.read_table(tmp_path / "o" / "board.parquet").to_pylist()
    assert rows == report["lines"]
    assert {row["family"] for row in rows} == {ALL, "a", "b"}
    settings = {row["setting"] for row in rows}
    assert {f"unmask={name}" for name in UNMASK.known() if name != "fixed"} <= settings
    results = pq.read_table(tmp_path / "o" / "results.parquet").to_pylist()
    assert {row["family"] for row in results} == {"a", "b"}
    times = [part.stat().st_mtime_ns for part in sorted((tmp_path / "o" / "parts").iterdir())]
    assert run(command) == 0
    assert "unmask=klass" in capsys.readouterr().out
    assert times == [
        part.stat().st_mtime_ns for part in sorted((tmp_path / "o" / "parts").iterdir())
    ]
    assert "Quick form" in (tmp_path / "o" / "board.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--cache", "dual"], "--cache cannot be given"),
        (["--per-family", "0"], "must be at least 1"),
        (["--time-limit", "soon"], "must be a time"),
        (["--executor", "local:x"], "needs a number"),
    ],
)
def test_what_is_wrong_is_refused(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["leaderboard", "-o", str(tmp_path / "o"), *more]) == 2
    assert message in capsys.readouterr().err


def test_a_repeated_prompt_is_refused_before_policies_are_tried(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("skipstone.leaderboard.protocol.protocol", None)
    prompts = tmp_path / "p.jsonl"
    told = [("a", "x"), ("b", "x"), ("a", "y")]
    prompts.write_text("".join(json.dumps({"prompt": p, "family": f}) + "\n" for p, f in told))
    command = ["leaderboard", "--prompts", str(prompts), "--model", tiny.name, "--limit", "1"]
    command += ["--gen-length", "16"]
    assert run([*command, "-o", str(tmp_path / "o")]) == 2
    # Families take turns, so that it comes second.
    assert "prompt 2 (line 3) is the same as prompt 1 (line 1)" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_table_for_people_ends_where_nobody_reads_on(
    swept: tuple[Sweep, Leaderboard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skipstone.leaderboard.columns.MOST_BROKEN", 2)
    _, found = swept
    broken = [line for line in found.lines if line.changed and line.family != ALL]
    text = markdown(found, "about")
    assert f"The first 2 of {len(broken)}; board.parquet has every one." in text
    assert len(text.partition("## What broke")[2].partition("The first")[0].splitlines()) == 7


def test_a_cause_that_nothing_proves_is_not_told_as_one(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unproven(a: Side, b: Side, model: Model | None, *, time_limit: float) -> Diagnosis:
        found = examined(a, b, model, time_limit=float("inf"))
        assert found.cause is not None
        weak = replace(found.cause, proof=Proof.CONSISTENT)
        return replace(found, findings=(weak,), finished=time_limit > 1)

    monkeypatch.setattr("skipstone.sweep.causes.examined", unproven)
    every = protocol(tiny, Settings(gen_length=16, block_length=8, eos_stop=False), knobs=False)
    chosen = tuple(e for e in every.entries if e.setting.name == "cache=dual")
    asked = Protocol(every.baseline, chosen, ())

    def told(name: str, seconds: float) -> set[str]:
        where, baseline = tmp_path / name, asked.baseline
        sweep = run_sweep(
            tiny, QUESTIONS, asked.settings, where, baseline=baseline, explain=seconds
        )
        return {cause for line in board(sweep, asked).lines for cause in line.causes}

    assert told("short", 0.5) == {"not-finished"}
    assert told("long", 60) == {"stale-kv (not proven)"}


def test_what_more_time_may_find_is_said(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one_line(model: Model, base: Settings, *, knobs: bool) -> Protocol:
        setting = Setting("cache=dual", exact(base).replace(cache="dual"))
        return Protocol(exact(base), (Contender("cache", "dual", "", setting),), ())

    def not_finished(model: Model, plan: WorkerSetup, unit: CauseUnit, trusted: Side) -> Explained:
        return Explained(unit.prompt, unit.setting, NOT_FINISHED, "", "", plan.explain, None)

    monkeypatch.setattr("skipstone.leaderboard.protocol.protocol", one_line)
    monkeypatch.setattr("skipstone.sweep.worker.explain", not_finished)
    prompts = tmp_path / "p.txt"
    prompts.write_text("one\n")
    command = ["leaderboard", "--prompts", str(prompts), "--model", tiny.name, "--reports", "0"]
    command += ["--gen-length", "16", "-o", str(tmp_path / "o")]

    def said(*limit: str) -> bool:
        assert run([*command, *limit]) == 0
        told = "changed answers that are not-finished: 1; the same command with a larger"
        return told in capsys.readouterr().err

    assert said("--time-limit", "20s")
    assert said("--time-limit", "0")
    assert not said()
