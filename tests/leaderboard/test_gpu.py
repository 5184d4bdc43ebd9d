"""Times on a GPU beside the table: where they stand, and which files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skipstone.cli.main import run
from skipstone.errors import ConfigError
from skipstone.leaderboard.gpu import read_gpu_times
from skipstone.testing.checkpoint import write_checkpoint

TIME = {"seconds_per_answer": 0.5, "low": 0.25, "high": 0.75, "tokens_per_s": 64.0}
FILE = {
    "card": "A <b> card",
    "model": "LLaDA-8B",
    "date": "2026-11-28",
    "conditions": "batch 1",
    "settings": {
        "baseline": TIME,
        "unmask=threshold": TIME,
        "unmask=of another day": TIME,
        "cache=dual": {"failed": "no room"},
    },
}


def test_a_time_stands_beside_its_line_and_a_name_without_a_line_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet as pq

    model = str(write_checkpoint(tmp_path / "model"))
    times, prompts, out = tmp_path / "gpu.json", tmp_path / "p.txt", tmp_path / "o"
    times.write_text(json.dumps(FILE))
    prompts.write_text("a\n")
    command = ["leaderboard", "--quick", "--prompts", str(prompts), "--model", model]
    assert run([*command, "--gen-length", "4", "--gpu-times", str(times), "-o", str(out)]) == 0
    said = capsys.readouterr()
    assert "no line is called 'unmask=of another day'" in said.err
    assert "'cache=dual' could not be timed: no room" in said.err
    rows = {row["setting"]: row for row in pq.read_table(out / "board.parquet").to_pylist()}
    assert rows["unmask=threshold"]["gpu_seconds"] == 0.5
    assert rows["unmask=threshold cache=dual"]["gpu_seconds"] is None
    page, text = ((out / f"board.{kind}").read_text("utf-8") for kind in ("html", "md"))
    assert "random weights, schedule replayed" in page
    assert "A &lt;b&gt; card" in page
    assert "<b> card" not in page
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    column = lines[0].index("GPU s")
    assert {line[0]: line[column] for line in lines[1:]}["| baseline"] == "0.5"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"card": 7}, "card is 7, must be text"),
        ({"settings": {}}, "settings is no object with a setting in it"),
        ({"settings": {"a": {**TIME, "low": 0.6}}}, "outside 0.6 to 0.75"),
        ({"settings": {"a": {**TIME, "high": float("inf")}}}, "must be more than 0"),
        ({"settings": {"a": {**TIME, "low": True}}}, "must be a number"),
        ({"settings": {"a": {"low": 1}}}, "has no seconds_per_answer"),
    ],
)
def test_a_file_of_another_shape_is_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(FILE | change))
    with pytest.raises(ConfigError) as error:
        read_gpu_times(path)
    assert message in str(error.value)
    assert "policy_times.py" in str(error.value)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    for text in ("[", "[]", '{"card": 1, "card": 2}'):
        path.write_text(text)
        with pytest.raises(ConfigError):
            read_gpu_times(path)
