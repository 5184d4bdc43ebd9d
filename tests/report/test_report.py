"""What a report says and packs; how it looks is tested in a browser."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from string import Formatter

import numpy as np
import pytest

from skipstone import (
    ConfigError,
    CosineSkip,
    DualCache,
    Fixed,
    NoCache,
    Settings,
    SkipstoneError,
    write_report,
)
from skipstone.cli.main import run
from skipstone.record import MemoryTrace, Tap, TensorKey
from skipstone.report import report as report_module
from skipstone.report.facts import chain, effort, tables, verdict
from skipstone.report.page import render
from skipstone.report.study import closest_look, study
from skipstone.report.table import Axis, Table, coarse, coded, exact, whole
from skipstone.report.views import VIEWS
from skipstone.report.words import LANGUAGES, in_language, words
from skipstone.unmask import Editing
from tests.diff.test_diff import stored
from tests.helpers.recorded import trace_of

PLAIN = Settings(
    gen_length=16, block_length=8, cache=DualCache(), unmask=Fixed(), steps=16, eos_stop=False
)
EXACT = replace(PLAIN, cache=NoCache())
SKIPS = replace(PLAIN, skip=CosineSkip(skip_layer_k=2, skip_threshold=0.5))


EDITS = replace(PLAIN, unmask=Editing(0.3, 0.0, post_steps=3), steps=None)


def english(key: str) -> str:
    return words("en")[key]


def test_every_language_has_the_same_words_with_the_same_gaps() -> None:
    def gaps(text: str) -> set[str]:
        return {name for _, name, _, _ in Formatter().parse(text) if name}

    first = words("en")
    for language in LANGUAGES:
        other = words(language)
        assert set(other) == set(first)
        for key, text in other.items():
            assert gaps(text) == gaps(first[key]), key


def test_columns_come_back_as_they_were() -> None:
    table = Table(
        {
            "whole": whole([3, -1, 70000]),
            "exact": exact([0.5, float("nan"), 2.0]),
            "coarse": coarse(np.array([0.0, np.nan, 10.0]), 0, 10),
            "coded": coded([1, 0, -1], ("commit.committed", "commit.mask")),
            "axis": Axis(3),
        },
        [2, 3],
    )
    first, second = table.rows(english), table.rows(english, 1)
    assert [list(row.values()) for row in first] == [
        [3, 0.5, 0.0, "mask left", 0],
        [None, None, None, "committed", 1],
    ]
    assert list(second[0].values()) == [70000, 2.0, pytest.approx(10), None, 2]


def test_a_packed_column_is_read_as_the_page_reads_it() -> None:
    packed = exact([1.5, -2.0]).packed()
    data = zlib.decompress(base64.b64decode(str(packed["data"])))
    assert np.frombuffer(data, "<f4").tolist() == [1.5, -2.0]
    assert packed["dtype"] == "float32"


def test_the_commit_map_says_what_the_record_says() -> None:
    seen = study([trace_of(PLAIN), trace_of(SKIPS)])
    rows = VIEWS["commits_b"].rows(seen).rows(english)
    record_b = trace_of(SKIPS).records[0]
    committed = {p: step for step in record_b.steps for p in step.committed}
    assert {row["position"] for row in rows} == set(committed)
    for row in rows:
        step = committed[int(row["position"] or 0)]
        assert row["step"] == seen.index(seen.b, step.forward)
        assert row["token"] == f"#{record_b.tokens[int(row['position'] or 0) - 5]}"


def test_an_edit_is_seen_where_it_was_made() -> None:
    run = trace_of(EDITS).records[0]
    seen = study([trace_of(PLAIN), trace_of(EDITS)])
    written = {p: (step, p in step.edited) for step in run.steps for p in step.committed}
    assert any(edited for _, edited in written.values())
    for row in VIEWS["commits_b"].rows(seen).rows(english):
        step, edited = written[int(row["position"] or 0)]
        assert row["step"] == seen.index(seen.b, step.forward)
        assert row["commit"] == ("edited" if edited else "committed")
    step = next(step for step in run.steps if step.edited)
    place = seen.index(seen.b, step.forward)
    assert place is not None
    fates = {
        int(row["position"] or 0): row["fate"]
        for row in VIEWS["candidates"].rows(seen).rows(english, place)
        if row["run"] == "B"
    }
    held = [p for p in fates if not step.masked[p - step.prompt_length]]
    assert {p for p in held if fates[p] == "edits"} == set(step.edited)
    assert {fates[p] for p in held} <= {"edits", "keeps what is committed"}


def test_the_error_map_is_the_distance_of_the_states_in_units_of_the_noise() -> None:
    a, b = trace_of(PLAIN), trace_of(SKIPS)
    seen = study([a, b])
    step = seen.difference.alignment.comparable[-1]
    place = seen.index(seen.a, step[0].forward)
    assert place is not None
    rows = VIEWS["errors"].rows(seen).rows(english, place)
    assert rows
    for row in rows:
        layer, position = int(row["layer"] or 0), int(row["position"] or 0)
        ours, theirs = (
            state(trace, half.forward, layer, position)
            for trace, half in zip((a, b), step, strict=True)
        )
        error = np.linalg.norm(theirs - ours) / np.linalg.norm(ours)
        power = np.log10(max(error / seen.difference.floor.level(Tap.STATE, layer), 1e-2))
        assert row["error"] == pytest.approx(min(power, 6), abs=0.5 * 8 / 127 + 1e-6)


def state(trace: MemoryTrace, forward: int, layer: int, position: int) -> np.ndarray:
    tensor = trace.tensor(0, TensorKey(forward, Tap.STATE, layer))
    assert tensor is not None
    (row,) = tensor.at(np.array([position]))
    return np.asarray(row, dtype=np.float64)


def test_the_first_run_that_parts_is_looked_at_closely() -> None:
    traces = [trace_of(PLAIN), trace_of(PLAIN), trace_of(SKIPS)]
    assert closest_look(traces) == 2
    assert closest_look(traces[:2]) == 1
    seen = study(traces, names=("one", "two", "three"))
    assert seen.b.name == "three"
    rungs = tables.ladder(seen)
    assert [rung.letter for rung in rungs] == ["A", "B", "C"]
    assert rungs[1].tokens == 0
    assert "skip=" in rungs[2].settings


def test_the_chain_ends_at_a_state_and_says_where_it_comes_from() -> None:
    links = chain.chain(study([trace_of(PLAIN), trace_of(SKIPS)]))
    said = [in_language(link.title, "en") for link in links]
    assert said[0].startswith("Output: position")
    assert said[1].startswith("First decision that differs: block")
    assert said[2].startswith("First state beyond the noise:")
    lines = [in_language(line, "en") for line in links[2].lines]
    assert any("B: " in line for line in lines)


def test_the_answers_mark_what_differs() -> None:
    seen = study([trace_of(PLAIN), trace_of(SKIPS)])
    marked = {t.position for t in verdict.answer(seen, seen.a) if t.kind == "other"}
    assert marked <= set(seen.difference.differing_positions)
    assert marked


def ended(trace: MemoryTrace, at: int, *, filled: bool) -> MemoryTrace:
    """The same run of a model that calls the token at an index EOS, maybe filled up with it."""
    record = trace.records[0]
    eos, outcome = record.tokens[at], record.outcome
    assert outcome is not None
    if filled:
        outcome = replace(outcome, tokens=record.tokens[:at] + (eos,) * (len(record.tokens) - at))
    other = MemoryTrace()
    other.begin([replace(record.header, eos_id=eos)], "decisions")
    for step in record.steps:
        other.step(0, step, {})
    other.end([outcome])
    return other


@pytest.mark.parametrize(("filled", "mark"), [(True, " + {} EOS"), (False, " + {} from EOS on")])
def test_an_answer_ends_with_one_mark_for_all_that_follows_eos(filled: bool, mark: str) -> None:
    run = trace_of(PLAIN)
    seen = study([ended(run, 5, filled=filled), trace_of(SKIPS)])
    tokens = seen.a.record.tokens
    end = tokens.index(seen.a.record.header.eos_id)
    *before, last = verdict.answer(seen, seen.a)
    assert [token.text for token in before] == [f"#{token}" for token in tokens[:end]]
    assert in_language(last.text, "en") == mark.format(len(tokens) - end)
    assert (last.position, last.last) == (seen.prompt_length + end, seen.length - 1)
    for text in (render(seen), seen._repr_html_()):
        assert mark.format(len(tokens) - end) in text


def test_work_is_what_the_records_add_up_to() -> None:
    exact_run = effort.Effort.of(trace_of(EXACT).records[0])
    skipping = effort.Effort.of(trace_of(SKIPS).records[0])
    assert exact_run.row_layers == exact_run.most_row_layers
    assert skipping.skipped > 0
    assert skipping.row_layers < exact_run.row_layers
    assert skipping.flops < exact_run.flops


def test_the_page_runs_its_own_scripts_only() -> None:
    page = render(study([trace_of(PLAIN), trace_of(SKIPS)]))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe-eval" not in policy[1]
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"http", page)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"language": "fr"}, "language is 'fr'; known: en, zh"),
        ({"sample": 3}, "sample is 3, but trace A has 1"),
        ({"path": "missing/report.html"}, "cannot be written"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    path = tmp_path / str(arguments.pop("path", "report.html"))
    with pytest.raises(SkipstoneError, match=re.escape(message)):
        write_report([trace_of(PLAIN), trace_of(SKIPS)], path, **arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_one_run_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two or more traces, found 1"):
        write_report([trace_of(PLAIN)], tmp_path / "report.html")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "_DRAWING", ("altair", "no_such_package"))
    with pytest.raises(ConfigError, match=r"no_such_package.*; run: pip install 'altair>="):
        write_report([trace_of(PLAIN), trace_of(SKIPS)], tmp_path / "report.html")


def test_the_command_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = stored(tmp_path / "a.trace", trace_of(PLAIN))
    b = stored(tmp_path / "b.trace", trace_of(SKIPS))
    page = tmp_path / "report.html"
    assert (
        run(["report", str(a), str(b), "-o", str(page), "--time-limit", "0", "--lang", "zh"]) == 0
    )
    assert 'lang="zh"' in page.read_text("utf-8")[:100]
    assert "report.html" in capsys.readouterr().err
    assert run(["report", str(a), "-o", str(page)]) == 2
    assert "two or more traces, found 1" in capsys.readouterr().err


def test_a_report_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import skipstone.report.page, skipstone.report.report\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_every_view_has_its_words_and_no_other_has() -> None:
    for section in ("title", "about", "empty"):
        keys = {key.partition(".")[2] for key in words("en") if key.startswith(f"{section}.")}
        assert keys - {"inspector"} == set(VIEWS)
