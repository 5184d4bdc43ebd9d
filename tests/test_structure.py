"""The shape of the package: which module knows which, how much stands in one place, and names."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from graphlib import CycleError, TopologicalSorter

import grimp

from tests.conftest import LONGEST, ROOT

SOURCES = sorted((ROOT / "src" / "skipstone").rglob("*.py"))
# Eighteen arguments, each with its line in the signature and its description, are longer than a
# screen by themselves; of these functions the code alone is counted.
DOCUMENTED = {"foreign.explain.explain.explain"}


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


def functions(source: str) -> Iterator[tuple[str, int, int]]:
    """Name, lines, and lines without signature and docstring of every function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            code = node.body[1 if ast.get_docstring(node) is not None else 0 :]
            lines = node.end_lineno - code[0].lineno + 1 if code else 0
            yield node.name, node.end_lineno - node.lineno + 1, lines


def test_functions_fit_on_a_screen_and_files_can_be_read() -> None:
    longest = dict[str, int]()
    for path in SOURCES:
        module = ".".join(path.relative_to(ROOT / "src" / "skipstone").with_suffix("").parts)
        if path.name.startswith("triton_"):  # a kernel is one function, beside its launcher
            continue
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= 400, module
        for name, lines, code in functions(source):
            full = f"{module}.{name}"
            longest[full] = code if full in DOCUMENTED else lines
    assert [name for name, lines in longest.items() if lines > 60] == []
    assert longest.keys() >= DOCUMENTED


def test_a_public_class_has_a_name_of_its_own() -> None:
    """Who searches for a name finds one class."""
    homes = dict[str, list[str]]()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(path.name)
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_lines_of_a_function_are_counted_whole_and_without_its_head() -> None:
    source = 'def f(\n    a: int,\n) -> int:\n    """Says."""\n    a += 1\n    return a\n'
    assert list(functions(source)) == [("f", 6, 2)]


def test_files_that_are_to_start_first_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / name).is_file()] == []
