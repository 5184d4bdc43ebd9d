"""The audit gate: what it counts, what it proves, what it writes, and how it goes on."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from skipstone import (
    ConfigError,
    CosineSkip,
    Engine,
    OutputError,
    PromptError,
    Settings,
    Threshold,
)
from skipstone.audit.run import Log, audit, describe
from skipstone.cli.audit import audit_command
from skipstone.cli.junit import junit_xml
from skipstone.cli.options import parse_rate
from skipstone.cli.prompts import read_questions
from skipstone.cli.sarif import sarif_log
from skipstone.diff.agreement import (
    Level,
    Question,
    Row,
    interval,
    judge,
    known_answers,
)
from skipstone.diff.judges import contains
from skipstone.testing.tiny import tiny_model

BASE = Settings(unmask=Threshold(0.3), gen_length=16, block_length=8, eos_stop=False)
SKIP = BASE.replace(skip=CosineSkip(skip_layer_k=3, skip_threshold=0.8, skip_outlier=0.2))
PROMPTS = ["w5 w9 w2", "w1", "w30 w7 w7 w2 w11", "w8 w8"]
LEVELS: tuple[Level, ...] = ("answer", "token", "decision")


@pytest.fixture(scope="module")
def engines() -> tuple[Engine, Engine]:
    model = tiny_model(1)
    return Engine(model, BASE), Engine(model, SKIP)


def row(prompt: str, *, same: bool = True, text: str = "yes") -> Row:
    if same:
        return Row(prompt, text, text, (), 4, 4)
    return Row(prompt, text, "no", (1, 2), 4, 5, "token", 0, 1, 2)


def run_all(engines: tuple[Engine, Engine], prompts: Sequence[str], batch: int = 1) -> list[Row]:
    return [row for rows in audit(*engines, prompts, batch=batch) for row in rows]


# --- what the numbers prove ---------------------------------------------------------------------


@pytest.mark.parametrize("total", [1, 20, 735])
def test_the_interval_of_nothing_seen_is_the_exact_one(total: int) -> None:
    low, high = interval(0, total, 0.95)
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / total), rel=1e-9)


@pytest.mark.parametrize(
    ("count", "total", "verdict", "proven"),
    [
        (0, 736, "PASS", True),
        (0, 735, "INCONCLUSIVE", False),
        (1, 250, "INCONCLUSIVE", False),
        (1, 150, "FAIL", False),
        (20, 200, "FAIL", True),
    ],
)
def test_only_a_whole_interval_within_the_budget_passes(
    count: int, total: int, verdict: str, *, proven: bool
) -> None:
    found = judge(count, total, 0.005, 0.95)
    assert (found.verdict, found.proven) == (verdict, proven)
    assert found.low <= found.rate <= found.high


@pytest.mark.parametrize(("count", "total"), [(0, 10), (1, 1000), (3, 900)])
def test_the_number_of_prompts_that_is_named_would_pass(count: int, total: int) -> None:
    found = judge(count, total, 0.005, 0.95)
    assert found.verdict == "INCONCLUSIVE"
    needed = found.needed()
    assert needed is not None
    assert judge(round(found.rate * needed), needed, 0.005, 0.95).verdict == "PASS"
    fewer = needed * 9 // 10
    assert judge(round(found.rate * fewer), fewer, 0.005, 0.95).verdict != "PASS"


def test_no_number_of_prompts_passes_at_the_budget_itself() -> None:
    assert judge(1, 200, 0.005, 0.95).needed() is None


def test_budgets_that_nothing_can_meet_are_refused() -> None:
    for budget in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="max-disagreement"):
            judge(0, 10, budget, 0.95)
    for confidence in (0.0, 1.0):
        with pytest.raises(ConfigError, match="confidence"):
            judge(0, 10, 0.1, confidence)
    with pytest.raises(ConfigError, match="no prompts"):
        judge(0, 0, 0.1, 0.95)


def test_rates_are_read_with_and_without_percent() -> None:
    assert parse_rate("0.5%", "--rate") == parse_rate("0.005", "--rate") == 0.005
    with pytest.raises(ConfigError, match=r"0\.5%"):
        parse_rate("half", "--rate")


def test_right_answers_hold_the_known_one_as_whole_words() -> None:
    assert contains("It is  ANKARA.", "ankara")
    assert contains("so 42", "42")
    assert not contains("so 420", "42")
    assert not contains("Ankaras", "ankara")


def test_known_answers_are_paired_and_tested_exactly() -> None:
    questions = [Question(f"p{i}", "yes") for i in range(12)] + [Question("unknown")]
    texts = [("yes", "no")] * 1 + [("no", "yes")] * 8 + [("yes", "yes")] * 2 + [("no", "no")]
    rows = [Row(f"p{i}", a, b, (), 1, 1) for i, (a, b) in enumerate(texts)]
    known = known_answers(questions, [*rows, row("unknown")])
    assert known is not None
    assert (known.both, known.only_a, known.only_b, known.neither) == (2, 1, 8, 1)
    assert known.p_value == pytest.approx(2 * (1 + 9) / 2**9)
    assert known_answers([Question("x")], [row("x")]) is None


# --- the rows -----------------------------------------------------------------------------------


def test_rows_say_what_the_runs_did(engines: tuple[Engine, Engine]) -> None:
    rows = run_all(engines, PROMPTS)
    assert [row.prompt for row in rows] == PROMPTS
    for found in rows:
        a, b = (engine.generate(found.prompt) for engine in engines)
        assert (found.text_a, found.text_b) == (a.text, b.text)
        changed = [i for i, (x, y) in enumerate(zip(a.tokens, b.tokens, strict=True)) if x != y]
        assert list(found.differing_positions) == changed
        answer, token, decision = (found.disagrees(level) for level in LEVELS)
        assert answer <= token <= decision
        assert decision == bool(found.kind)
    assert any(row.disagrees("answer") for row in rows)
    # The control: a run agrees with itself.
    alone = run_all((engines[0], engines[0]), PROMPTS)
    assert not any(row.disagrees("decision") for row in alone)


def test_a_batch_gives_the_rows_of_prompts_alone(engines: tuple[Engine, Engine]) -> None:
    assert run_all(engines, PROMPTS, batch=3) == run_all(engines, PROMPTS)


def test_a_prompt_that_does_not_fit_names_itself(engines: tuple[Engine, Engine]) -> None:
    with pytest.raises(PromptError, match=r"'w1 w1 .* has 300 tokens"):
        run_all(engines, [" ".join(["w1"] * 300)])


# --- the log ------------------------------------------------------------------------------------


def test_a_broken_off_audit_goes_on_where_it_was(
    engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    path, specs = tmp_path / "log.jsonl", describe(*engines)
    log = Log(path, specs)
    first = next(audit(*engines, PROMPTS, batch=2))
    log.add(first)
    with path.open("ab") as file:
        file.write(b'{"prompt": "torn')
    log = Log(path, specs)
    assert [prompt for prompt in PROMPTS if prompt in log] == PROMPTS[:2]
    left = [prompt for prompt in PROMPTS if prompt not in log]
    log.add([row for rows in audit(*engines, left) for row in rows])
    again = Log(path, specs)
    assert [again[prompt] for prompt in PROMPTS] == run_all(engines, PROMPTS)
    assert path.read_bytes().count(b"\n") == 1 + len(PROMPTS)


def test_a_log_of_other_settings_is_refused_and_kept(
    engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    Log(path, describe(*engines)).add([row("w1")])
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"another candidate \(skip=cosine.*now skip=none"):
        Log(path, describe(engines[0], engines[0]))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", ["a prompt\nanother", "one line", '{"format": 1}\n', "\xff\n", "[" * 100_000]
)
def test_a_file_that_is_no_log_is_not_touched(
    engines: tuple[Engine, Engine], tmp_path: Path, content: str
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(content, encoding="latin-1")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="not the log of an audit"):
        Log(path, describe(*engines))
    assert path.read_bytes() == before


def test_a_damaged_row_is_named_by_its_line(engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    path, specs = tmp_path / "log.jsonl", describe(*engines)
    Log(path, specs).add([row("w1"), row("w2")])
    lines = path.read_text().splitlines()
    for damage in (
        "{}",
        "nonsense",
        lines[2].replace('"yes"', "7"),
        lines[2].replace("yes", "yet"),
        "[" * 100_000,
    ):
        path.write_text("\n".join([lines[0], lines[1], damage, ""]))
        with pytest.raises(ConfigError, match="line 3 is no row"):
            Log(path, specs)


def test_a_log_that_cannot_be_written_is_an_error(
    engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        Log(tmp_path / "missing" / "log.jsonl", describe(*engines))
    with pytest.raises(ConfigError, match="cannot be read"):
        Log(tmp_path, describe(*engines))


# --- the files ----------------------------------------------------------------------------------

HOSTILE = [
    "".join(map(chr, range(32))) + "\x7f",
    "]]> <![CDATA[ & < > \" '",
    "\ud800 \ufffe \u202e \u2028 \x85",
    "<script>alert(1)</script>",
    "ordinary",
]


def hostile_rows() -> tuple[list[Question], list[Row]]:
    questions = [Question(prompt, line=i) for i, prompt in enumerate(HOSTILE, start=1)]
    return questions, [row(p, same=p == "ordinary", text=p) for p in HOSTILE]


def test_junit_has_a_case_for_each_prompt_whatever_it_holds() -> None:
    questions, rows = hostile_rows()
    tree = ElementTree.fromstring(junit_xml(questions, rows, "answer", judge(4, 5, 0.1, 0.95)))
    cases = tree.findall(".//testcase")
    # The last case is the verdict, which is FAIL.
    assert len(cases) == len(HOSTILE) + 1
    assert [case.find("failure") is not None for case in cases] == [True] * 4 + [False, True]
    suite = tree.find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("6", "5")
    assert r"\x00\x01" in (cases[0].get("name") or "")
    assert "]]> <![CDATA[" in (cases[1].get("name") or "")
    # The control: this is what would happen to the same text as it is.
    with pytest.raises(ElementTree.ParseError):
        ElementTree.fromstring(f"<a>{HOSTILE[0]}</a>")


@pytest.mark.parametrize(
    ("differ", "total", "budget", "verdict", "code", "element", "level"),
    [
        (1, 1000, 0.1, "PASS", 0, None, "note"),
        (4, 5, 0.1, "FAIL", 1, "failure", "error"),
        (1, 5, 0.3, "INCONCLUSIVE", 3, "error", "warning"),
    ],
)
def test_exit_code_junit_and_sarif_tell_one_verdict(
    differ: int,
    total: int,
    budget: float,
    verdict: str,
    code: int,
    element: str | None,
    level: str,
) -> None:
    questions, rows = hostile_rows()
    found = judge(differ, total, budget, 0.95)
    assert (found.verdict, found.exit_code) == (verdict, code)
    tree = ElementTree.fromstring(junit_xml(questions, rows, "answer", found))
    *_, last = tree.findall(".//testcase")
    assert [child.tag for child in last] == ([] if element is None else [element])
    errors = str(int(verdict == "INCONCLUSIVE"))
    assert [suite.get("errors") for suite in tree.findall("testsuite")] == [errors]
    log = sarif_log(Path("p.txt"), questions, rows, "answer", found)
    (run,) = json.loads(json.dumps(log))["runs"]
    assert run["invocations"] == [{"executionSuccessful": True, "exitCode": code}]
    assert {result["level"] for result in run["results"]} == {level}


def test_sarif_names_every_prompt_that_disagrees_at_its_line() -> None:
    questions, rows = hostile_rows()
    found = judge(4, 5, 0.1, 0.95)
    log = sarif_log(Path("my prompts.txt"), questions, rows, "answer", found)
    (run,) = json.loads(json.dumps(log))["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["disagreement"]
    places = [result["locations"][0]["physicalLocation"] for result in run["results"]]
    assert [place["region"]["startLine"] for place in places] == [1, 2, 3, 4]
    assert {place["artifactLocation"]["uri"] for place in places} == {"my%20prompts.txt"}
    assert {result["level"] for result in run["results"]} == {"error"}
    assert all(result["message"]["text"].isprintable() for result in run["results"])


# --- the prompt file ----------------------------------------------------------------------------


def test_prompts_are_read_with_answers_and_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    objects = [
        {"prompt": "a\u2028b", "answer": 42},
        {"prompt": "c"},
        {"prompt": "d", "answer": "e"},
    ]
    lines = [json.dumps(value, ensure_ascii=False) for value in objects]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    assert read_questions(path, "--prompts") == [
        Question("a\u2028b", "42", 1),
        Question("c", None, 3),
        Question("d", "e", 5),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"text": "a"}', 'no text under "prompt"'),
        ('{"prompt": "a", "answer": true}', 'True under "answer"'),
        ('{"prompt": "a", "answer": ["b"]}', 'under "answer"'),
        ('{"prompt": "a", "answer": " "}', 'empty "answer"'),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f'{{"prompt": "fine"}}\n{line}\n')
    with pytest.raises(PromptError, match=f"line 2 .*{reason}"):
        read_questions(path, "--prompts")


# --- the command --------------------------------------------------------------------------------

ASKED = ["What is the capital of Turkey?", "Who is Newton, physics?", "What is red?"]


def command(path: Path, *arguments: object) -> int:
    shared = ["--prompts", path, "--gen-length", "8", "--block-length", "8"]
    code = audit_command.main([str(a) for a in (*shared, *arguments)], standalone_mode=False)
    assert isinstance(code, int)
    return code


def test_the_command_passes_fails_or_says_how_many_prompts_it_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, log = tmp_path / "prompts.txt", tmp_path / "log.jsonl"
    path.write_text("\n".join([*ASKED, ASKED[0]]))
    same = ["--baseline", "skip=none", "--candidate", "skip=cosine:skip_threshold=1", "-o", log]
    assert command(path, *same, "--max-disagreement", "80%") == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith("PASS: at 95% confidence at most 70.76%")
    assert "1 repeated prompts are counted once" in captured.err
    # From here on every row is in the log, and nothing may be decoded again.
    monkeypatch.setattr(Engine, "generate_batch", None)
    assert command(path, *same, "--max-disagreement", "0.5%") == 3
    out = capsys.readouterr().out
    assert "INCONCLUSIVE: the rate may be up to 70.76%, over the budget of 0.5%" in out
    assert "about 736 prompts would pass" in out
    assert command(path, *same, "--max-disagreement", "0.5%", "--json") == 3
    value = json.loads(capsys.readouterr().out)
    assert (value["verdict"], value["total"], value["disagreements"]) == ("INCONCLUSIVE", 3, 0)
    assert value["baseline"]["skip"] == "none"


def test_the_command_fails_with_all_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, junit, sarif = (tmp_path / name for name in ("p.jsonl", "out.xml", "out.sarif"))
    lines = [{"prompt": q, "answer": "Ankara"} for q in ASKED]
    path.write_text("\n".join(map(json.dumps, lines)))
    other = ["--baseline", "unmask=fixed", "--candidate", "unmask=fixed steps=1", "--batch", "2"]
    files = ["--junit", junit, "--sarif", sarif, "--level", "decision"]
    assert command(path, *other, *files, "--max-disagreement", "1%") == 1
    out = capsys.readouterr().out
    assert "FAIL: the rate" in out
    assert "right of 3 known" in out
    assert len(ElementTree.parse(junit).findall(".//testcase")) == 3 + 1
    assert json.loads(sarif.read_text())["version"] == "2.1.0"


def test_a_prompt_that_cannot_be_used_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "fine"}\n{"prompt": "\\ud800"}\n')
    monkeypatch.setattr(Engine, "generate_batch", None)
    same = ["--baseline", "skip=none", "--candidate", "cache=none", "--max-disagreement", "1%"]
    with pytest.raises(PromptError, match="line 2 is not valid Unicode"):
        command(path, *same)


def test_rows_of_any_text_survive_the_log(engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    path, specs = tmp_path / "log.jsonl", describe(*engines)
    rng = random.Random(0)
    rows = [row(p, same=rng.random() < 0.5, text=p) for p in HOSTILE]
    Log(path, specs).add(rows)
    log = Log(path, specs)
    assert [log[p] for p in HOSTILE] == rows
