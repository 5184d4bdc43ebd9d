"""Triton kernels against their plain twins, under Triton's interpreter where there is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.conftest import ROOT


@pytest.mark.skipif(find_spec("triton") is None, reason="there is no Triton here")
def test_kernels_equal_their_twins() -> None:
    # The interpreter is chosen when Triton is imported, so it gets a process of its own.
    twins = ["tests/twins.py", "tests/twins_linear.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *twins]
    env = dict(os.environ, TRITON_INTERPRET="1")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
