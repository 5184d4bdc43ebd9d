"""The command line as a user types it, on the embedded model."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import click
import pytest

from skipstone import load
from skipstone.cli.main import COMMANDS, run, skipstone
from skipstone.engine import parse_settings

QUESTION = "Who is Newton, physics?"
FAST = ["--gen-length", "64"]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def test_generate_answers_the_question(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "generate", QUESTION)
    assert code == 0
    assert out.startswith("Isaac Newton was an English physicist and mathematician who")
    assert "forwards" in err


def test_generate_json_has_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "generate", QUESTION, "--json", *FAST)
    value = json.loads(out)
    assert code == 0
    assert set(value) >= {
        "tokens",
        "text",
        "prompt_tokens",
        "num_forwards",
        "masks_left",
        "skip_share",
        "seconds",
        "tokens_per_second",
        "settings",
    }
    assert value["masks_left"] == 0
    # Numbers are numbers, and the answer ends before its first EOS.
    assert value["settings"]["gen_length"] == 64
    assert value["settings"]["temperature"] == 0.0
    assert value["settings"]["seed"] is None
    assert value["settings"]["eos_stop"] is True
    text = load("pebble").text
    assert text.decode(value["tokens"]) == value["text"]
    assert len(value["tokens"]) < 64
    assert parse_settings({n: str(v) for n, v in value["settings"].items()}).gen_length == 64


def test_ids_and_text_of_one_prompt_give_one_answer(capsys: pytest.CaptureFixture[str]) -> None:
    ids = ",".join(map(str, load("pebble").text.encode(QUESTION)))
    _, from_text, _ = call(capsys, "generate", QUESTION, "--json", *FAST)
    _, from_ids, _ = call(capsys, "generate", "--prompt-ids", ids, "--json", *FAST)
    assert json.loads(from_text)["tokens"] == json.loads(from_ids)["tokens"]


def test_batch_files_give_one_answer_a_prompt(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    questions = [QUESTION, "What is the capital of Turkey?"]
    lines = tmp_path / "prompts.txt"
    lines.write_text("\n".join(questions) + "\n\n")
    objects = tmp_path / "prompts.jsonl"
    objects.write_text("\n".join(json.dumps({"prompt": q}) for q in questions))
    _, plain, _ = call(capsys, "generate", "--batch-file", str(lines), *FAST)
    code, as_json, _ = call(capsys, "generate", "--batch-file", str(objects), "--json", *FAST)
    assert code == 0
    answers = [json.loads(line) for line in as_json.splitlines()]
    texts = [answer["text"] for answer in answers]
    assert [(answer["number"], answer["prompt"]) for answer in answers] == [
        (number, question) for number, question in enumerate(questions, start=1)
    ]
    labelled = [(f"[{i + 1}] {questions[i]}", f"    {texts[i]}") for i in range(2)]
    assert plain.splitlines() == [line for pair in labelled for line in pair]
    assert "Newton" in texts[0]
    assert "Ankara" in texts[1]


def test_prompts_wait_for_a_place_and_answer_in_their_order(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(f"{QUESTION}\nWhat is the capital of Turkey?\nWho was Marie Curie?\n")
    file = ("--batch-file", str(path), "--json", *FAST)
    answers = list[list[tuple[list[int], int]]]()
    for more in ((), ("--batch-size", "2"), ("--batch-size", "9")):
        code, out, _ = call(capsys, "generate", *file, *more)
        assert code == 0
        found = map(json.loads, out.splitlines())
        answers.append([(value["tokens"], value["num_forwards"]) for value in found])
    assert len(answers[0]) == 3
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("size", ["3", "1000000000"])
def test_more_places_than_prompts_are_said_to_have_no_effect(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, size: str
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(f"{QUESTION}\nWhat is the capital of Turkey?\n")
    line = ("generate", "--batch-file", str(path), *FAST, "--batch-size")
    code, out, err = call(capsys, *line, size)
    assert (code, out.count("]")) == (0, 2)
    assert f"note: --batch-size {size} is more than the 2 prompts of " in err
    # The control.
    assert "note: --batch-size" not in call(capsys, *line, "2")[2]


def test_a_budget_that_stops_says_how_many_masks_are_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop = ["--budget", "stop", "--steps", "4", "--unmask", "threshold:value=1", *FAST]
    code, out, err = call(capsys, "generate", QUESTION, *stop)
    assert code == 0
    assert "masks left⟩" in out
    assert "60 of 64 new tokens are still masks" in err
    _, out, _ = call(capsys, "generate", QUESTION, "--json", *stop)
    assert json.loads(out)["masks_left"] == 60


@pytest.mark.parametrize(
    ("options", "note"),
    [
        (["--steps", "64", "--unmask", "threshold:value=0.9"], "steps=64 has no effect: threshold"),
        (["--steps", "32", "--unmask", "factor"], "steps=32 has no effect: factor"),
        (["--seed", "3"], "seed=3 has no effect at temperature 0"),
        (["--batch-size", "4"], "--batch-size 4 has no effect on a single prompt"),
    ],
)
def test_a_setting_without_effect_is_said_and_does_not_stop_the_run(
    capsys: pytest.CaptureFixture[str], options: list[str], note: str
) -> None:
    code, out, err = call(capsys, "generate", QUESTION, *options, *FAST)
    assert code == 0
    assert "Newton" in out
    assert f"note: {note}" in err
    _, found, _ = call(capsys, "generate", QUESTION, "--json", *options, *FAST)
    if "--batch-size" not in options:
        assert any(said.startswith(note) for said in json.loads(found)["notes"])


def test_max_new_tokens_is_gen_length(capsys: pytest.CaptureFixture[str]) -> None:
    lengths = [
        ["--gen-length", "32"],
        ["--max-new-tokens", "32"],
        ["--gen-length", "32", "--max-new-tokens", "32"],
    ]
    found = [call(capsys, "generate", QUESTION, "--json", *length)[1] for length in lengths]
    assert {json.loads(out)["settings"]["gen_length"] for out in found} == {32}
    code, out, err = call(capsys, "generate", QUESTION, "--gen-length", "8", *lengths[1])
    assert (code, out) == (2, "")
    assert "max_new_tokens=32 and gen_length=8 are one setting with two values" in err


def test_compare_tells_identical_from_different(capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--gen-length", "16"]
    specs = ["--a", "skip=none", "--b", "skip=cosine:skip_threshold=1"]
    code, out, _ = call(capsys, "compare", QUESTION, "--unmask", "fixed", *specs, *short)
    assert code == 0
    assert "the runs do not part" in out
    specs = ["--a", "skip=none", "--b", "skip=cosine:skip_threshold=0.5,skip_outlier=-1"]
    code, out, _ = call(capsys, "compare", QUESTION, "--unmask", "fixed", *specs, *short)
    assert code == 1
    assert "first divergence: block" in out
    assert len(out.splitlines()) <= 25


def test_compare_json_has_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    specs = ["--a", "cache=dual", "--b", "cache=none unmask=threshold:value=0.999999"]
    code, out, _ = call(capsys, "compare", QUESTION, "--json", *specs, *FAST)
    value = json.loads(out)
    assert code == 1
    assert value["identical"] is False
    assert set(value["first"]) >= {"block", "step", "position", "kind"}
    assert value["a"]["settings"]["cache"].startswith("dual")
    assert value["b"]["settings"]["cache"] == "none"
    differing = [
        i
        for i, pair in enumerate(zip_longest(value["a"]["tokens"], value["b"]["tokens"]))
        if pair[0] != pair[1]
    ]
    assert value["differing_positions"] == differing


def test_compare_takes_the_model_s_dtype_from_a_spec(capsys: pytest.CaptureFixture[str]) -> None:
    specs = ["--a", "dtype=float32", "--b", "dtype=float64"]
    code, out, _ = call(capsys, "compare", QUESTION, "--json", *specs, *FAST)
    assert code in (0, 1)
    assert json.loads(out)["a"]["text"].startswith("Isaac Newton")


def test_nothing_is_drawn_when_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    _, plain, _ = call(capsys, "generate", QUESTION, "--json", *FAST)
    code, streamed, err = call(capsys, "generate", QUESTION, "--json", "--stream", *FAST)
    assert code == 0
    assert err == ""
    assert json.loads(plain)["tokens"] == json.loads(streamed)["tokens"]


def test_policies_and_env(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "policies", "--json")
    assert code == 0
    assert json.loads(out)["skip"]["cosine"]["settings"]["skip_layer_k"] == 18
    code, out, _ = call(capsys, "policies")
    assert "unmask=threshold" in out
    code, out, _ = call(capsys, "policies", "klass")
    assert code == 0
    for said in (
        "arXiv 2511.05664",
        "drift=0.01",
        "(float)",
        "needs DRIFT",
        "(all, best)",
        "waits",
    ):
        assert said in out
    assert "Shape letters" not in out
    code, named, _ = call(capsys, "policies", "unmask=klass", "--json")
    assert code == 0
    assert [s["default"] for s in json.loads(named)["unmask=klass"]["settings"]][1:3] == [0.01, 2]
    code, out, _ = call(capsys, "policies", "none")
    assert "cache=none" in out
    assert "skip=none" in out
    code, _, err = call(capsys, "policies", "klas")
    assert code == 2
    assert "policy 'klas' is unknown; did you mean 'klass'" in err
    code, out, _ = call(capsys, "env", "--json")
    assert code == 0
    assert json.loads(out)["torch"]


def test_the_options_are_the_planned_ones() -> None:
    run_options = (
        "--model --device --dtype --gen-length --max-new-tokens --block-length --steps --cache "
        "--unmask --skip --temperature --top-p --top-k --seed --eos-stop --stop-after --stop-ids "
        "--budget --growing-canvas --absolute-blocks --reuse-prefix --suffix-window "
        "--debug --prompt-ids --json"
    )
    shared = set(run_options.split())
    decoding = shared | {"--memory"}
    planned = {
        "generate": decoding
        | {"--ids", "--batch-file", "--batch-size", "--stream", "--executor", "--output"},
        "compare": decoding | {"--ids", "--a", "--b", "--report"},
        "models": {"--json", "--debug"},
        "policies": {"--json", "--debug"},
        "env": {"--json", "--debug"},
        "trace": decoding
        | {"--ids", "--batch-file", "--batch-size", "--output", "--level", "--window"},
        "diagnose": decoding | {"--ids", "--sample", "--time-limit", "--keep"},
        "step": {"--ids", "--at", "--with", "--model", "--sample", "--json", "--debug"},
        "show": {
            "--ids",
            "--model",
            "--sample",
            "--steps",
            "--step",
            "--events",
            "--verify",
            "--json",
            "--debug",
        },
        "serve": decoding - {"--prompt-ids", "--json"}
        | {
            "--slots",
            "--name",
            "--host",
            "--port",
            "--api-keys-file",
            "--cors-origin",
            "--log",
            "--allowed-host",
        }
        | {"--log-prompts", "--max-body", "--max-waiting", "--time-limit", "--drain"}
        | {"--traces", "--keep-traces", "--trace-space", "--diagnosis-limit"}
        | {"--replicas", "--ray-address"},
        "export": {"--to", "--output", "--debug"},
        "report": {
            "--output",
            "--lang",
            "--sample",
            "--model",
            "--time-limit",
            "--floor",
            "--debug",
        },
        "roofline": {"--model", "--gpu", "--batch", "--block-length", "--length"}
        | {"--skip-layer-k", "--going", "--json", "--debug"},
        "bench": {"--only", "--model", "--device", "--dtype", "--batch", "--context", "--rows"}
        | {"--skip-layer-k", "--going", "--refresh", "--generation", "--peer", "--repeats"}
        | {"--output", "--json", "--debug"},
        "diff": {"--ids", "--model", "--sample", "--floor", "--json", "--debug"},
        "audit": decoding - {"--prompt-ids"}
        | {"--baseline", "--candidate", "--prompts", "--max-disagreement", "--level"}
        | {"--confidence", "--batch", "--output", "--judge", "--junit", "--sarif"},
        "sweep": shared - {"--prompt-ids"}
        | {"--prompts", "--grid", "--output", "--baseline", "--bound", "--level", "--judge"}
        | {"--limit", "--executor", "--time-every"},
        "leaderboard": shared - {"--prompt-ids"}
        | {"--prompts", "--output", "--per-family", "--quick", "--time-limit", "--judge"}
        | {"--executor", "--time-every", "--limit", "--reports", "--gpu-times"},
    }
    for name in COMMANDS:
        command = skipstone.get_command(click.Context(skipstone), name)
        assert command is not None
        found = {param.opts[-1] for param in command.params if param.opts[-1].startswith("--")}
        assert found == planned[name]
    assert set(COMMANDS) == set(planned)


def test_python_dash_m_works() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "skipstone", "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("skipstone, version")


def test_debug_shows_the_traceback_and_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "generate", QUESTION, "--cache", "duel", "--debug")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("skipstone: error: cache policy 'duel' is unknown")


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "Hi", "--gen-length", "٣"],
        ["generate", "Hi", "--temperature", "٠.٥"],
        ["generate", "Hi", "--unmask", "threshold:٠.٩"],
        ["generate", "--prompt-ids", "٣"],
        ["generate", "Hi", "--batch-size", "٣"],
        ["show", "nowhere", "--sample", "²"],
        ["show", "nowhere", "--sample", "٣"],
        ["diff", "a", "b", "--sample", "３"],
        ["audit", "--prompts", "pebble", "--batch", "٣"],
        ["sweep", "--prompts", "pebble", "--limit", "٣", "-o", "out"],
        ["step", "nowhere", "--at", "٠.٣"],
    ],
)
def test_numbers_are_written_in_ascii_digits(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "internal" not in message
    assert any(c in message for c in "٣²３٠"), message


@pytest.mark.parametrize("asked", ["200MB", "0.01", "1%"])
def test_memory_may_be_given_as_bytes_or_as_a_share(
    capsys: pytest.CaptureFixture[str], asked: str
) -> None:
    code, out, _ = call(capsys, "generate", QUESTION, *FAST, "--memory", asked)
    assert (code, out) == (0, call(capsys, "generate", QUESTION, *FAST)[1])


def test_memory_in_which_a_request_never_fits_is_refused_with_what_it_takes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "run.trace"
    for command in (["generate"], ["trace", "-o", str(path)]):
        code, out, err = call(capsys, *command, QUESTION, *FAST, "--memory", "1MB")
        assert (code, out) == (2, "")
        assert "(memory='1MB')" in err
        assert "give more memory" in err


@pytest.mark.parametrize("asked", ["much", "5", "0", "-1GB", "150%", "40GBs"])
def test_memory_that_is_none_is_refused_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("skipstone.models.load.load", loaded)
    spec = ["--a", "cache=none", "--b", f"memory={asked}"]
    for command in (["generate", QUESTION, f"--memory={asked}"], ["compare", QUESTION, *spec]):
        code, out, err = call(capsys, *command)
        assert (code, out) == (2, "")
        assert "must be a share of the free memory" in err


def test_slots_is_another_name_of_batch_size(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("Hi\nHo\n")
    few = ["--batch-file", str(path), "--gen-length", "4", "--slots", "3"]
    code, _, err = call(capsys, "generate", *few)
    assert code == 0
    assert "is more than the 2 prompts" in err
