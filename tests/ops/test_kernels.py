"""Triton kernels against their plain twins, under Triton's interpreter where there is no GPU."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.conftest import ROOT

TWINS = sorted(f"tests/ops/{path.name}" for path in (ROOT / "tests" / "ops").glob("twins*.py"))
MAY_START_EARLY = [
    "triton_rows",
    "triton_attend",
    "triton_linear",
    "triton_router",
    "triton_experts",
]
# Neither of them reads or writes what a kernel writes: weights are asked for, not taken.
BEFORE_INPUTS = {"tl.program_id", "tl.arange", "tl.minimum", "_ask_ahead"}


def kernels(source: str) -> Iterator[ast.FunctionDef]:
    """What is launched, as opposed to what kernels call."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel"):
            assert any("triton.jit" in ast.unparse(d) for d in node.decorator_list)
            yield node


def breach(kernel: ast.FunctionDef) -> str:
    """How a kernel breaks the rule of ``skipstone.ops.triton_early``; empty if it keeps it."""
    if "EARLY" not in {arg.arg for arg in kernel.args.args}:
        return "is not told whether it starts early"
    for statement in kernel.body:
        if ast.unparse(statement) == "wait_for_inputs(EARLY)":
            return ""
        for node in ast.walk(statement):
            if isinstance(node, ast.Return):
                return "may return before it waits"
            if isinstance(node, ast.Call) and ast.unparse(node.func) not in BEFORE_INPUTS:
                return f"calls {ast.unparse(node.func)} before it waits"
    return "never waits, or not in every program"


@pytest.mark.parametrize("module", MAY_START_EARLY)
def test_every_program_waits_before_it_reads_writes_or_returns(module: str) -> None:
    source = (ROOT / f"src/skipstone/ops/model/{module}.py").read_text()
    found = {kernel.name: breach(kernel) for kernel in kernels(source)}
    assert found == dict.fromkeys(found, "")
    assert found


@pytest.mark.parametrize(
    ("body", "broken"),
    [
        ("wait_for_inputs(EARLY)", ""),
        ("x = tl.program_id(0)\n    wait_for_inputs(EARLY)\n    tl.load(p + x)", ""),
        ("if tl.program_id(0) > n:\n        return\n    wait_for_inputs(EARLY)", "may return"),
        ("x = tl.load(p)\n    wait_for_inputs(EARLY)", "calls tl.load"),
        ("x = _tile(p)\n    wait_for_inputs(EARLY)", "calls _tile"),
        ("if n > 0:\n        wait_for_inputs(EARLY)", "calls wait_for_inputs"),
        ("x = tl.program_id(0)", "never waits"),
    ],
)
def test_a_broken_rule_is_found(body: str, broken: str) -> None:
    (kernel,) = kernels(f"@triton.jit\ndef _a_kernel(p, n, EARLY):\n    {body}\n")
    assert breach(kernel).startswith(broken)
    assert bool(breach(kernel)) == bool(broken)


@pytest.mark.skipif(find_spec("triton") is None, reason="there is no Triton here")
def test_kernels_equal_their_twins() -> None:
    # The interpreter is chosen when Triton is imported, so it gets a process of its own.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TWINS]
    env = dict(os.environ, TRITON_INTERPRET="1")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert len(TWINS) >= 6
    assert "passed" in done.stdout
