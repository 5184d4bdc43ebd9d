"""Recorded cases of Dream: each decodes again, step by step, and one that is changed does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from skipstone.testing.golden.__main__ import main

pytestmark = pytest.mark.golden

Case = dict[str, Any]


@pytest.fixture
def recorded(golden_dir: Path, tmp_path: Path) -> Path:
    """The checkpoint and its cases."""
    if not (golden_dir / "dream").is_dir():
        pytest.skip("Dream is not recorded here")
    return shutil.copytree(golden_dir / "dream", tmp_path / "dream")


def replay(folder: Path) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(folder)])
    return done.exit_code, done.output


def test_every_case_decodes_again(recorded: Path) -> None:
    cases = json.loads((recorded / "cases.json").read_text())
    code, said = replay(recorded)
    assert code == 0, said
    assert said.endswith(f"dream: {len(cases)} of {len(cases)}\n")
    assert len(cases) >= 70
    assert len(said.splitlines()) > 12


def another_token(case: Case) -> None:
    case["expect"]["tokens"][3] += 1


def another_step(case: Case) -> None:
    commit = case["expect"]["commit"]
    commit[0] = (commit[0] + 1) % (max(commit) + 1)


def other(name: str, value: object) -> Callable[[Case], None]:
    def change(case: Case) -> None:
        case["params"][name] = value

    return change


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("diffusion_generate/maskgit_plus", another_token),
        ("diffusion_generate/entropy", another_step),
        ("diffusion_generate/topk_margin", other("alg", "maskgit_plus")),
        ("diffusion_generate/maskgit_plus", other("eps", 0.5)),
        ("diffusion_generate/top_p", other("top_p", 0.1)),
        ("diffusion_generate/top_k", other("top_k", 2)),
        ("fast_dllm/none/threshold", other("threshold", 0.05)),
        ("fast_dllm/none/threshold", other("block_length", 8)),
        ("fast_dllm/prefix/threshold", other("threshold", 1.0)),
        ("fast_dllm/dual/entropy", other("dual_cache", False)),
        ("diffusion_generate/entropy", other("alg", "origin")),
    ],
)
def test_whatever_is_changed_is_a_miss(
    recorded: Path, kind: str, change: Callable[[Case], None]
) -> None:
    path = recorded / "cases.json"
    cases = [case for case in json.loads(path.read_text()) if case["kind"] == kind]
    for case in cases:
        case["params"].setdefault("dual_cache", True)
        change(case)
    path.write_text(json.dumps(cases))
    code, said = replay(recorded)
    assert code == 1, said
