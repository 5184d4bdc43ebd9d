"""The commands diagnose and step: what they print, what they keep, and what they refuse."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from skipstone import Engine, Settings, load
from skipstone.cli import specs
from skipstone.cli.diagnose import parse_seconds
from skipstone.cli.main import run
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.diagnosis.finding import Finding, Place, Proof
from skipstone.diagnosis.rules import RULES
from skipstone.engine import parse_settings, parse_spec
from skipstone.errors import CheckpointError, ConfigError
from skipstone.models.load import Model
from skipstone.record import Header, TraceWriter, experiments, open_trace
from skipstone.sentence import NOTHING, Sentence, TokenId, listed
from skipstone.tracing import Recorder
from tests.helpers.watching import prompt_of, uneven_model

PLAIN = "cache=none unmask=fixed gen_length=18 block_length=6 eos_stop=false"
CACHED = PLAIN.replace("none", "dual")
SHORT = ("--gen-length", "16")
IDS = ",".join(map(str, prompt_of(1, 5)))
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs a command line whose model is a tiny random one."""
    model = uneven_model(1)

    def loaded(*arguments: object, **settings: object) -> Model:
        return model

    for name in ("models.load.load", "cli.specs.load", "cli.specs.recorded_model"):
        monkeypatch.setattr(f"skipstone.{name}", loaded)

    def called(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return called


def settings(spec: str) -> Settings:
    return parse_settings(parse_spec(spec))


def written(
    path: Path, spec: str, *, seed: int = 1, header: Callable[[Header], Header] = lambda h: h
) -> Path:
    """A trace of decisions on disk."""
    recorder = Recorder()
    Engine(uneven_model(seed), settings(spec)).generate(prompt_of(1, 5), observer=recorder)
    (record,) = recorder.records
    with TraceWriter(path) as sink:
        sink.begin([header(record.header)], "decisions")
        for step in record.steps:
            sink.step(0, step, {})
        assert record.outcome is not None
        sink.end([record.outcome])
    return path


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return written(tmp_path / "a.trace", PLAIN)


@pytest.fixture
def b(tmp_path: Path) -> Path:
    return written(tmp_path / "b.trace", CACHED)


# --- diagnose


def test_two_traces_are_explained_in_ten_lines_and_the_proof_is_kept(
    call: Call, a: Path, b: Path
) -> None:
    assert call("diagnose", a, b)[0] == 1
    assert open_trace(b).experiments == []
    code, out, err = call("diagnose", a, b, "--keep")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert len(lines) <= 10
    assert lines[0].startswith("A and B part at block 0, step 1, position 5")
    kinds = [line.partition(":")[0] for line in lines[1:]]
    assert kinds == ["cause", "where", "evidence", "proof", "ruled out", "next"]
    assert lines[1].endswith("[stale-kv]")
    assert lines[4].startswith("proof: necessary and sufficient; swapped cache: none against dual")
    kept = {e.key: e for e in open_trace(b).experiments}
    verdict = json.loads(kept.pop("diagnosis").outcome)
    assert verdict["verdict"] == "stale-kv"
    assert open_trace(a).experiments == []
    # Every experiment is kept, also those that are described in the same words.
    assert len({key.rpartition(" [")[0] for key in kept}) < len(kept)
    for experiment in kept.values():
        assert json.loads(experiment.request)["kind"] in ("rerun", "follow", "unobserved")
        assert json.loads(experiment.outcome)["seconds"] >= 0
    # Asked again, the same experiments give way to their repetitions.
    assert call("diagnose", a, b, "--keep")[:2] == (code, out)
    assert {e.key for e in open_trace(b).experiments} == {*kept, "diagnosis"}


def test_the_verdict_as_json(call: Call, a: Path, b: Path) -> None:
    code, out, _ = call("diagnose", a, b, "--json")
    value = json.loads(out)
    assert (code, value["verdict"], value["parted"]) == (1, "stale-kv", True)
    (cause,) = value["findings"]
    assert (cause["proof"], cause["number"]) == ("necessary and sufficient", 11)
    assert (cause["where"]["block"], cause["where"]["step"]) == (0, 1)
    answers = [*value["ruled_out"], *value["findings"], *value["remarks"]]
    assert sorted(answer["rule"] for answer in answers) == sorted(rule.name for rule in RULES)
    assert value["unavailable"] == []


def test_two_specs_and_a_prompt(call: Call) -> None:
    shared = ["--prompt-ids", IDS, "--gen-length", "18", "--block-length", "6", "--no-eos-stop"]
    code, out, _ = call("diagnose", "cache=none", "cache=dual", "--unmask", "fixed", *shared)
    assert (code, "[stale-kv]" in out) == (1, True)
    code, out, _ = call("diagnose", "cache=dual", "cache=dual", *shared)
    assert code == 0
    assert out.startswith("A and B decide the same in every step\nno cause to look for")


def test_tokens_are_text_and_their_ids_come_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A near tie names two tokens; no tokenizer says which they are but the one of the runs."""
    text = load("pebble").text
    one, other = text.encode("Newton")[-2:]

    def near_tie(case: Case) -> Diagnosis:
        found = Sentence("tokens {a} and {b} are close", a=TokenId(one), b=TokenId(other))
        finding = Finding(
            rule="near-tie-token",
            number=6,
            what=Sentence("a near tie"),
            where=Place(0, 0, 0, 0),
            evidence=found,
            proof=Proof.CONSISTENT,
            experiment=listed([found, found]),
            remedy=NOTHING,
        )
        return Diagnosis(True, Sentence("they part"), (finding,), (), (), NOTHING, ())

    monkeypatch.setattr("skipstone.cli.diagnose.explain", near_tie)
    line = ["diagnose", "cache=none", "cache=dual", "Hi", "--gen-length", "4"]
    for more, shown in (
        ((), f"{text.token(one)!r} and {text.token(other)!r}"),
        (("--ids",), f"{text.token(one)!r} (id {one}) and {text.token(other)!r} (id {other})"),
    ):
        assert run([*line, *more]) == 1
        out = capsys.readouterr().out
        assert out.count(f"tokens {shown} are close") == 3
    assert run([*line, "--json"]) == 1
    (cause,) = json.loads(capsys.readouterr().out)["findings"]
    assert cause["evidence"] == f"tokens {one} and {other} are close"


def test_without_its_model_a_pair_is_inconclusive_and_says_why(
    call: Call, a: Path, b: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*arguments: object, **settings: object) -> Model:
        raise CheckpointError("no such model")

    monkeypatch.setattr(specs, "recorded_model", missing)
    code, out, _ = call("diagnose", a, b)
    assert code == 1
    assert "cause: INCONCLUSIVE" in out
    assert (
        "not tried: the model is not here; side A cannot be run again: only its trace is here"
        in out
    )


def test_a_reached_time_limit_is_said(call: Call, a: Path, b: Path) -> None:
    code, out, _ = call("diagnose", a, b, "--time-limit", "1e-9s", "--keep")
    assert code == 1
    assert "cause: NOT FINISHED" in out
    assert "not tried: the time limit is reached" in out
    assert "ruled out" not in out
    (kept,) = open_trace(b).experiments
    assert kept.key == "diagnosis"


def test_a_trace_that_cannot_be_written_to_does_not_cost_the_verdict(
    call: Call, a: Path, b: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> NoReturn:
        raise sqlite3.OperationalError("attempt to write a readonly database")

    _, wanted, _ = call("diagnose", a, b)
    monkeypatch.setattr(experiments, "open_for_writing", refuse)
    code, out, err = call("diagnose", a, b, "--keep")
    assert (code, out) == (1, wanted)
    assert err.startswith("note: experiments cannot be kept in ")
    assert len(err.splitlines()) == 1


def test_text_of_a_trace_cannot_steer_the_terminal(call: Call, a: Path, tmp_path: Path) -> None:
    evil = "dual\x1b[2J\x9b31m\u202e"
    hostile = written(
        tmp_path / "hostile.trace",
        CACHED,
        header=lambda h: replace(h, weights=evil, source="skipstone"),
    )
    _, out, err = call("diagnose", a, hostile)
    assert "the runs have different weights" in out
    assert all(c.isprintable() or c == "\n" for c in out + err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}", "missing.trace"], "missing.trace"),
        (["{a}", "cache=dual"], "give two traces, or two run specs and a PROMPT"),
        (["{a}", "{b}", "w1"], "two traces have their prompt"),
        (["{a}", "{b}", "--prompt-ids", "1,2"], "two traces have their prompt"),
        (["{a}", "{b}", "--sample", "1"], "has 1 samples"),
        (["{a}", "{b}", "--sample", "-1"], "--sample is -1"),
        (["cache=none", "cache=dual"], "two run specs need a PROMPT"),
        (["cache=none", "cahce=dual", "w1"], "'cahce' is unknown; did you mean 'cache'?"),
        (["cache=none", "cache=duel", "w1"], "did you mean 'dual'?"),
        (["cache=none", "cache=dual", "--prompt-ids", "x"], "--prompt-ids is 'x'"),
        (["{a}", "{b}", "--time-limit", "soon"], "--time-limit is 'soon', must be a time"),
    ],
)
def test_diagnose_refuses_in_one_line(
    call: Call, a: Path, b: Path, arguments: list[str], message: str
) -> None:
    code, out, err = call("diagnose", *(text.format(a=a, b=b) for text in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}", "{b}", "--cache", "none"], "note: --cache has no effect on two traces"),
        (["{a}", "{b}", "--no-eos-stop"], "note: --eos-stop has no effect on two traces"),
        (
            ["cache=none", "cache=dual", "w1 w2", "--sample", "1", *SHORT],
            "note: --sample 1 has no effect",
        ),
        (["cache=none", "cache=dual steps=16", "w1", *SHORT], "note: steps=16 has no effect"),
    ],
)
def test_what_has_no_effect_is_said_and_stops_nothing(
    call: Call, a: Path, b: Path, arguments: list[str], message: str
) -> None:
    code, out, err = call("diagnose", *(text.format(a=a, b=b) for text in arguments))
    assert code in (0, 1)
    assert out
    assert [line for line in err.splitlines() if line.startswith(message)]


def test_times_are_read_or_refused() -> None:
    assert [parse_seconds(t) for t in ("60", "60s", "2m", "0.5min", "1h")] == [
        60,
        60,
        120,
        30,
        3600,
    ]
    for text in ("", "s", "1d", "60 s s", "nan", "0", "-1s", "1sm"):
        with pytest.raises(ConfigError, match="--time-limit is"):
            parse_seconds(text)


# --- step


def test_a_step_is_run_under_each_setting_from_one_state(call: Call, b: Path) -> None:
    (record,) = open_trace(b).records
    step = record.steps[1]
    tried = ["--with", "", "--with", "cache=none", "--with", ""]
    code, out, _ = call("step", b, "--at", "0.1", *tried, "--json")
    value = json.loads(out)
    assert code == 1
    recorded, fresh, again = value["runs"]
    assert recorded == again
    assert [c["position"] for c in recorded["commits"]] == list(step.committed)
    assert [c["confidence"] for c in recorded["commits"]] == [
        c.confidence for c in step.candidates if c.committed
    ]
    assert (recorded["rows"], fresh["rows"]) == (6, 23)
    assert [c["position"] for c in fresh["commits"]] != list(step.committed)
    other, same = value["against_first"]
    assert other["largest_logit_difference"] > 0
    assert other["first_state"]["layer"] >= 1
    assert same == {
        "spec": "",
        "largest_logit_difference": 0.0,
        "top_changed": [],
        "first_state": None,
    }


def test_a_step_in_words(call: Call, b: Path) -> None:
    code, out, _ = call("step", b, "--at", "2.3", "--with", "", "--with", "unmask=threshold")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "block 2, step 3: 3 masks in the block"
    first_words = [line.split()[0] for line in lines[1:]]
    assert first_words == ["settings", "as", "unmask=threshold", "unmask=threshold:"]
    assert "no state differs; logits up to 0 apart" in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.trace", "--at", "0.1"], "missing.trace"),
        (["{b}", "--at", "7.0"], "step 7.0 is not in this trace; it has 0.0 to 0.5, 1.0 to 1.5"),
        (["{b}", "--at", "0.6"], "step 0.6 is not in this trace"),
        (["{b}", "--at", "one"], "--at is 'one', must be BLOCK.STEP, like 0.3"),
        (["{b}", "--at", "0.1", "--with", "cahce=dual"], "did you mean 'cache'?"),
        (["{b}", "--at", "0.1", "--with", "dual"], "'dual' in a run spec is no setting"),
        (["{b}", "--at", "0.1", "--with", "gen_length=12"], "the recorded canvas has 18"),
        (["{b}", "--at", "0.1", "--sample", "-1"], "--sample is -1"),
        (["{b}", "--at", "0.1", "--sample", "1"], "has 1 samples"),
    ],
)
def test_step_refuses_in_one_line(call: Call, b: Path, arguments: list[str], message: str) -> None:
    code, out, err = call("step", *(text.format(b=b) for text in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_model_with_other_weights_is_not_taken_for_the_recorded_one(
    call: Call, a: Path, tmp_path: Path
) -> None:
    other = written(tmp_path / "other.trace", PLAIN, seed=2)
    for arguments in (["step", other, "--at", "0.1"], ["diagnose", other, a]):
        code, _, err = call(*arguments)
        assert code == 2
        assert "was recorded with other weights of 'random-2'" in err


def test_the_fingerprint_of_an_older_version_is_said_not_to_be_comparable(
    call: Call, a: Path, tmp_path: Path
) -> None:
    old = written(tmp_path / "old.trace", CACHED, header=lambda h: replace(h, weights="0123abcd"))
    for arguments in (["step", old, "--at", "0.1", "--with", "cache=dual"], ["diagnose", old, a]):
        _, out, err = call(*arguments)
        assert "has a fingerprint of an older version, which cannot be held against" in err
        assert "different weights" not in out
    _, out, _ = call("diagnose", a, old)
    assert "different weights" not in out
