"""Triton kernels against their plain twins, under Triton's interpreter where there is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.conftest import ROOT

TWINS = sorted(path.name for path in (ROOT / "tests").glob("twins*.py"))


@pytest.mark.skipif(find_spec("triton") is None, reason="there is no Triton here")
@pytest.mark.parametrize("twins", TWINS)
def test_kernels_equal_their_twins(twins: str) -> None:
    # The interpreter is chosen when Triton is imported, so it gets a process of its own.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{twins}"]
    env = dict(os.environ, TRITON_INTERPRET="1")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
