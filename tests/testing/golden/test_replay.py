"""The replay of recorded truth: what is recorded passes, and whatever is changed in it does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from skipstone.testing.golden.__main__ import main
from skipstone.testing.golden.case import Inexpressible
from skipstone.testing.golden.folder import expressed
from skipstone.testing.golden.published import checkpoints

pytestmark = pytest.mark.golden

Cases = list[dict[str, Any]]


@pytest.fixture
def folder(golden_dir: Path, tmp_path: Path) -> Path:
    """A checkpoint with four of its cases: two of each rule."""
    shutil.copytree(golden_dir / "mha", tmp_path / "mha")
    change(tmp_path / "mha", some)
    return tmp_path / "mha"


def some(cases: Cases) -> None:
    fixed = [case for case in cases if case["threshold"] is None]
    rest = [case for case in cases if case["threshold"] is not None]
    cases[:] = fixed[:2] + rest[:2]


def change(folder: Path, how: Callable[[Cases], None]) -> None:
    path = folder / "cases.json"
    cases = json.loads(path.read_text())
    how(cases)
    path.write_text(json.dumps(cases))


def replay(*folders: Path) -> Result:
    return CliRunner().invoke(main, [str(folder) for folder in folders])


def test_what_is_recorded_comes_again(folder: Path) -> None:
    done = replay(folder)
    assert done.exit_code == 0, done.output
    assert "mha: dual, fixed: 2 of 2" in done.output
    assert done.output.endswith("mha: 12 of 12\n")


def other_token(cases: Cases) -> None:
    tokens = cases[1]["expect"]["dual"]["tokens"]
    tokens[3] = tokens[3] + 1


def fewer_tokens(cases: Cases) -> None:
    cases[1]["expect"]["dual"]["tokens"].pop()


def fewer_forwards(cases: Cases) -> None:
    cases[1]["expect"]["dual"]["nfe"] -= 1


def no_rule(cases: Cases) -> None:
    del cases[1]["threshold"]


def impossible(cases: Cases) -> None:
    cases[1]["steps"] = 10_000


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (other_token, "mha 1 dual (dual, fixed): token "),
        (fewer_tokens, "mha 1 dual (dual, fixed): "),
        (fewer_forwards, "forwards, recorded are "),
        (no_rule, "mha 1: cannot be expressed: the case has no 'threshold'"),
        (impossible, "the engine refuses it: steps is 10000"),
    ],
)
def test_whatever_is_changed_is_a_miss(
    folder: Path, how: Callable[[Cases], None], said: str
) -> None:
    change(folder, how)
    done = replay(folder)
    assert done.exit_code == 1, done.output
    assert said in done.output


def test_a_policy_that_nobody_knows_is_said(folder: Path, tmp_path: Path) -> None:
    unknown = tmp_path / "policies" / "never_heard"
    unknown.mkdir(parents=True)
    recorded = {"policy": "never_heard", "cases": [{"prompt": [1], "gen_length": 8}]}
    (unknown / "mha.json").write_text(json.dumps(recorded))
    done = replay(unknown)
    assert done.exit_code == 1
    assert "no policy of the engine is 'never_heard'" in done.output


def test_a_folder_without_truth_is_refused(tmp_path: Path) -> None:
    done = replay(tmp_path)
    assert done.exit_code == 1
    assert "holds no recorded truth" in done.output


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("cases.json", {}, "must hold a list of cases, at least one"),
        ("cases.json", [], "must hold a list of cases, at least one"),
        ("cases.json", [1], "must hold a list of cases, at least one"),
        ("other.json", [], "holds no cases of a policy"),
        ("other.json", {"policy": "eb", "cases": None}, "must hold a list of cases"),
    ],
)
def test_files_without_cases_are_refused(
    tmp_path: Path, file: str, content: object, said: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    if file != "cases.json":
        (tmp_path / "config.json").unlink()
    (tmp_path / file).write_text(json.dumps(content))
    done = replay(tmp_path)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert said in done.output


@pytest.mark.parametrize(
    ("recorded", "changes", "said"),
    [
        ("sdar", {"block_length": 0}, "no call has such parameters"),
        ("sdar", {"block_length": None}, "no call has such parameters"),
        ("sdar", {"stopping_criteria_idx": 501}, "no call has such parameters"),
        ("sdar", {"top_k": 3}, "top_k is 3"),
        ("llada2", {"minimal_topk": 0}, "no call has such parameters"),
        ("llada2", {"eos_id": None}, "no call has such parameters"),
        ("llada2", {"top_p": 0.5}, "top_p is 0.5"),
        ("dream", {"params": None}, "no call has such parameters"),
        ("dream", {"params": {"alg_temp": 0.5}}, "alg_temp is 0.5"),
        ("llada_moe", {"params": {"temperature": 0.5}}, "temperature is 0.5"),
        ("llada_moe", {"params": {"remasking": "random"}}, "remasking is 'random'"),
        ("llada_moe", {"params": {"cfg_scale": 1.0}}, "cfg_scale is 1.0"),
        ("stable_diffcoder", {"steps": None}, "no call has such parameters"),
    ],
)
def test_parameters_that_nothing_here_means_are_said(
    golden_dir: Path, recorded: str, changes: dict[str, Any], said: str
) -> None:
    """None is passed over, and none ends in a traceback."""
    if not (golden_dir / recorded).is_dir():
        pytest.skip(f"{recorded} is not recorded here")
    config = json.loads((golden_dir / recorded / "config.json").read_text())
    raw = json.loads((golden_dir / recorded / "cases.json").read_text())
    case = max(raw, key=lambda case: len(case.keys() & changes.keys()))
    own = changes.get("params")
    other = case | changes | ({"params": case["params"] | own} if own else {})
    read = checkpoints.read(config["architectures"][0], "x", other)
    (found,) = expressed("x", "kind", read)
    assert isinstance(found, Inexpressible)
    assert said in found.reason


def test_steps_beyond_one_for_each_token_commit_nothing(golden_dir: Path) -> None:
    if not (golden_dir / "illada").is_dir():
        pytest.skip("illada is not recorded here")
    case = next(
        case
        for case in json.loads((golden_dir / "illada" / "cases.json").read_text())
        if case["kind"] == "llada_generate"
    )
    params = case["params"]
    case["params"] = params | {"steps": 3 * params["gen_length"]}
    (found,) = checkpoints.read("ILLaDAForCausalLM", "x", case)
    assert found.settings["steps"] == str(params["gen_length"])
