"""The notebook's scenario: what its author could not see is named, and nothing when it is gone."""

from __future__ import annotations

import pytest

from skipstone.record import Event
from skipstone.testing import notebook_scenario

# The items of the notebook: kind, file where it happens, and a figure that must be there.
ITEMS = [
    ("misaligned_rows", "notebook_model.py", "similarity_right"),
    ("low_precision_similarity", "notebook_model.py", "share_differing"),
    ("masks_left", "notebook_scenario.py", "masks_left"),
    ("stated_differs", "notebook_scenario.py", "received"),
    ("cache_overwritten", "notebook_scenario.py", ""),
    ("partial_logits_compare", "notebook_scenario.py", "whole_difference"),
    ("measuring_cost", "notebook_scenario.py", "seconds_between"),
    ("skip_cannot_pay", "notebook_scenario.py", "rows_needed"),
]
FAULTS = [kind for kind, _, _ in ITEMS[:6]]


@pytest.fixture(scope="module")
def seen() -> list[Event]:
    return notebook_scenario.findings(repaired=False)


@pytest.mark.parametrize(("kind", "file", "number"), ITEMS, ids=[item[0] for item in ITEMS])
def test_each_item_of_the_notebook_is_named_with_figures_and_its_line(
    seen: list[Event], kind: str, file: str, number: str
) -> None:
    found = [event for event in seen if event.kind == kind]
    assert found
    assert any(f"{file}:" in event.source for event in found)
    assert all(any(letter.isdigit() for letter in event.message) for event in found)
    assert not number or all(number in event.numbers for event in found)


def test_the_line_of_a_wrong_setting_is_where_it_was_written(seen: list[Event]) -> None:
    (event,) = [event for event in seen if event.kind == "stated_differs"]
    with open(notebook_scenario.__file__, encoding="utf-8") as file:
        line = file.readlines()[int(event.source.rpartition(":")[2]) - 1]
    assert "else 0.99)" in line
    assert event.numbers == {"stated": 0.9999, "received": 0.99}


def test_the_repaired_script_has_none_of_its_six_faults() -> None:
    found = {event.kind for event in notebook_scenario.findings(repaired=True)}
    assert not found.intersection(FAULTS)
    # Control: it was watched all the same, and this size does not change.
    assert "skip_cannot_pay" in found


def test_each_finding_is_printed_once(
    seen: list[Event], capsys: pytest.CaptureFixture[str]
) -> None:
    notebook_scenario.print_findings([*seen, *seen])
    printed = capsys.readouterr().out
    for event in seen:
        assert printed.count(f"\n{event.kind} {event.source}\n") == 1
