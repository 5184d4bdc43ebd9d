"""The example notebook runs from its own folder, shows what it talks about, and ships with it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest

from docs import notebook as maker
from tests.conftest import ROOT

LONGEST_CELL = 12


def read() -> Any:
    return nbformat.read(maker.NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    # As its reader has it: alone in a folder, beside nothing of the checkout.
    folder = tmp_path_factory.mktemp("notebook")
    shutil.copy(maker.NOTEBOOK, folder)
    notebook = maker.executed(folder)
    assert (folder / "report.html").stat().st_size < 5_000_000
    return maker.kept(notebook)


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
    shown = [o for o in outputs(run, f'view(study, "{view}")') if "data" in o]
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


def test_it_is_short() -> None:
    code = [cell for cell in read().cells if cell.cell_type == "code"]
    assert all(len(cell.source.splitlines()) <= LONGEST_CELL for cell in code)


def shown(cell: Any) -> list[tuple[str, list[str]]]:
    """What a cell shows: printed words without their figures, and the kinds of what is drawn."""
    return [
        (re.sub(r"[-+.e\d]+", "#", output.get("text", "")), sorted(output.get("data", {})))
        for output in cell.outputs
    ]


def test_it_ships_with_the_outputs_of_its_code(run: Any) -> None:
    for stored, new in zip(read().cells, run.cells, strict=True):
        if stored.cell_type == "code":
            assert stored.execution_count == new.execution_count, "run: make notebook"
            assert shown(stored) == shown(new), "run: make notebook"
    assert sum(bool(cell.get("outputs")) for cell in run.cells) >= 13
    assert maker.NOTEBOOK.stat().st_size < 2_000_000


def test_its_outputs_name_no_folder_and_no_address_of_the_machine_that_ran_it() -> None:
    for cell in read().cells:
        for output in cell.get("outputs", ()):
            texts = [output.get("text", ""), *map(str, output.get("data", {}).values())]
            for text in texts:
                assert not re.search(r"(?<![\w<])/(home|root|tmp|work|Users|opt|usr)/", text)
                assert not re.search(r"\b0x[0-9a-f]{6,}", text)
                assert str(Path.home()) not in text


def test_nothing_that_readers_run_is_imported_from_the_working_directory() -> None:
    local = re.compile(r"(?:from|import|-m) examples\b|(?:from|import) (?:tests|pebble|faults)\b")
    assert local.search("from examples.notebook_model import from_pebble")
    pages = [*ROOT.glob("README*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.ipynb")]
    assert len(pages) > 20
    for page in pages:
        assert local.findall(page.read_text(encoding="utf-8")) == [], page


def test_the_notebook_is_for_a_bare_kernel() -> None:
    assert read().metadata.kernelspec.name == "python3"
