"""The example notebook runs from top to bottom, and shows what it talks about."""

from __future__ import annotations

import shutil
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples" / "divergence_tracing.ipynb"
LONGEST_CELL = 12


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("notebook")
    # The kernel's folder is where the notebook lies; the examples it imports are beside it.
    shutil.copytree(ROOT / "examples", folder / "examples")
    notebook = read()
    path = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, resources=path).execute()
    assert (folder / "report.html").stat().st_size < 5_000_000
    return notebook


def outputs(notebook: Any, text: str) -> list[Any]:
    (cell,) = [c for c in notebook.cells if c.cell_type == "code" and text in c.source]
    return list(cell.outputs)


def printed(notebook: Any, text: str) -> str:
    return "".join(output.text for output in outputs(notebook, text) if "text" in output)


@pytest.mark.parametrize(
    "view",
    ["shapes_b", "commits_difference", "errors", "candidates", "top", "histogram", "similarity_b"],
)
def test_every_chart_is_drawn_inline(run: Any, view: str) -> None:
    shown = [o for o in outputs(run, f'view("{view}")') if "data" in o]
    assert any(o.data.get("image/svg+xml", "").startswith("<svg") for o in shown)


def test_the_study_shows_both_answers(run: Any) -> None:
    shown = [o for o in outputs(run, "st.study(") if "data" in o]
    (html,) = [o.data["text/html"] for o in shown]
    assert "A and B part at block" in html
    assert "<u style" in html


def test_the_cause_is_proven(run: Any) -> None:
    lines = printed(run, "st.diagnose(")
    assert "stale-skipped-state" in lines
    assert "proof: necessary and sufficient" in lines


def test_one_step_is_run_twice_from_the_same_state(run: Any) -> None:
    lines = printed(run, "step_under")
    assert "exact computes" in lines
    assert "0 leave early" in lines.splitlines()[0]
    assert "0 leave early" not in lines.splitlines()[1]


def test_the_mistakes_of_foreign_code_are_named(run: Any) -> None:
    lines = printed(run, "st.sanitize(")
    assert "misaligned_rows" in lines
    assert "low_precision_similarity" in lines


def test_it_is_short_and_has_no_stale_output() -> None:
    notebook = read()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(len(cell.source.splitlines()) <= LONGEST_CELL for cell in code)
    assert all(not cell.outputs for cell in code)


def test_the_notebook_is_for_a_bare_kernel() -> None:
    assert read().metadata.kernelspec.name == "python3"
