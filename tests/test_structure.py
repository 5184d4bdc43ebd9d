"""The shape of the package: which module knows which."""

from __future__ import annotations

from collections.abc import Mapping, Set
from graphlib import CycleError, TopologicalSorter

import grimp


def imports() -> dict[str, set[str]]:
    """What each module imports: at its top, inside a function, or for type checkers only."""
    graph = grimp.build_graph("skipstone")
    return {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}


def circle(edges: Mapping[str, Set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty if there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(imports()) == []


def test_an_import_back_is_a_circle() -> None:
    edges = imports()
    assert "skipstone.report.runs" in edges["skipstone.report.study"]
    edges["skipstone.report.runs"].add("skipstone.report.study")  # as `study.view` once did
    assert "skipstone.report.runs" in circle(edges)
