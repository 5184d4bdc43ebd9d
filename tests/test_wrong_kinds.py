"""Every public function refuses what is something else altogether with an error of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import skipstone as st
from skipstone.errors import SkipstoneError
from skipstone.record import MemoryTrace
from tests.foreign.attending_net import MASK, Made, Net, recorded


@pytest.fixture(scope="module")
def trace() -> MemoryTrace:
    return recorded(Made(), "decisions")


@dataclass(frozen=True)
class Public:
    """A public function, and arguments that are right."""

    function: Callable[..., Any]
    right: Callable[[MemoryTrace, Path], Mapping[str, Any]]
    """Of a trace and an empty folder."""


def _of_attach(_: MemoryTrace, __: Path) -> Mapping[str, Any]:
    free = ("eos_id", "layers", "window", "stated", "prompt_length")
    asked = {"mask_id": MASK, "level": "decisions", "function_name": "", "sanitize": False}
    return {"model": Net(Made()), "path": None, **asked, **dict.fromkeys(free)}


def _of_diagnose(trace: MemoryTrace, _: Path) -> Mapping[str, Any]:
    free = dict.fromkeys(("sample", "engine_a", "engine_b", "model"))
    return {"a": trace, "b": trace, "time_limit": 5.0, **free}


def _of_explain(trace: MemoryTrace, _: Path) -> Mapping[str, Any]:
    free = dict.fromkeys(("level", "sample", "reference", "stated"))
    return {"good": trace, "bad": trace, "sanitize": False, "seed": 0, "time_limit": 5.0, **free}


def _of_study(trace: MemoryTrace, _: Path) -> Mapping[str, Any]:
    free = dict.fromkeys(("floor", "diagnosis", "token"))
    return {"traces": [trace, trace], "names": (), "sample": 0, **free}


def _of_report(_: MemoryTrace, folder: Path) -> Mapping[str, Any]:
    # The rest is what a study takes.
    return {"traces": [], "path": folder / "report.html", "language": "en"}


PUBLIC = (
    Public(st.open_trace, lambda _, folder: {"path": folder}),
    Public(st.TraceWriter, lambda _, folder: {"path": folder}),
    Public(st.Recorder, lambda _, __: {"level": "decisions"}),
    Public(st.compare, lambda trace, _: {"a": trace, "b": trace, "sample": None}),
    Public(st.diagnose, _of_diagnose),
    Public(st.explain, _of_explain),
    Public(st.attach, _of_attach),
    Public(st.study, _of_study),
    Public(st.write_report, _of_report),
    Public(st.load, lambda _, folder: {"name_or_dir": folder, "local_files_only": True}),
)
WRONG: tuple[object, ...] = (
    *(3, 1.5, -1, float("nan"), True, None, "", "nothing-is-here", b"bytes"),
    *([], {}, [None], (None, None), {"a": 1}, ["x"]),
    *(object(), Ellipsis, int, st, torch.zeros(2), np.zeros(3)),
)


@pytest.mark.parametrize("public", PUBLIC, ids=[p.function.__name__ for p in PUBLIC])
def test_wrong_arguments_are_refused_with_errors_of_ours(
    public: Public, trace: MemoryTrace, tmp_path: Path
) -> None:
    pytest.importorskip("altair")
    file, folder = tmp_path / "file", tmp_path / "empty"
    file.write_text("no trace")
    folder.mkdir()
    right = public.right(trace, folder)
    for name in right:
        for wrong in (*WRONG, str(file), file, folder, [file], [trace]):
            if name == "token" and wrong is int:
                continue
            with contextlib.suppress(SkipstoneError):
                public.function(**{**right, name: wrong})


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda: st.open_trace(3), "path is 3, must be the folder of a trace"),  # pyrefly: ignore
        (lambda: st.write_report(None, None), "path is None, must be the file to write"),  # pyrefly: ignore
        (lambda: st.study(3), "traces is 3, must be a list of two or more runs"),  # pyrefly: ignore
        (lambda: st.study([]), "a report needs two or more traces, found 0"),
        (lambda: st.study([3, 4]), "trace A is 3 .int., which is no recorded run"),  # pyrefly: ignore
    ],
)
def test_the_error_names_value_and_rule(call: Callable[[], object], rule: str) -> None:
    with pytest.raises(SkipstoneError, match=rule):
        call()


def test_a_report_takes_paths_of_traces(tmp_path: Path) -> None:
    pytest.importorskip("altair")
    net = Net(Made())
    paths = [tmp_path / "a.trace", tmp_path / "b.trace"]
    for path in paths:
        with st.attach(net, mask_id=MASK, path=path):
            net(torch.full((1, 20), MASK))
    assert [run.name for run in st.study(paths).runs]
