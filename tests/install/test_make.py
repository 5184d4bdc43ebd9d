"""``make`` sets itself up on any machine: which Python, which torch, and what pip says in the end.

A small project with the real Makefile stands for ours, and a folder of made-up wheels for the
index, so that nothing is downloaded.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
# Builds nothing: the wheel of the made-up project lies ready.
BACKEND = """
import pathlib, shutil
WHEEL = "skipstone-0.1.0-py3-none-any.whl"
def build_editable(folder, config_settings=None, metadata_directory=None):
    shutil.copy(pathlib.Path(__file__).with_name(WHEEL), folder)
    return WHEEL
"""
PROGRAM = """
import sys, torch
def main():
    print("torch", torch.kind, *sys.argv[1:2])
"""
AS_OLD = "import sys; sys.version_info = (3, 9, 2); exec(sys.argv[2])"


def write_wheel(folder: Path, name: str, version: str, code: str, *needs: str) -> None:
    """A wheel with one module, which also is a command."""
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{name}-{version}.dist-info"
    required = "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", code)
        wheel.writestr(
            f"{about}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}",
        )
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/entry_points.txt", f"[console_scripts]\n{name} = {name}:main\n")
        wheel.writestr(f"{about}/RECORD", "")


def write_index(root: Path) -> None:
    """An index: a page for each package, with a link to each of its wheels."""
    for name in {wheel.name.partition("-")[0] for wheel in root.glob("*.whl")}:
        (root / name).mkdir(exist_ok=True)
        links = [
            f'<a href="../{quote(wheel.name)}">{wheel.name}</a>' for wheel in root.glob(f"{name}-*")
        ]
        (root / name / "index.html").write_text("\n".join(links), encoding="utf-8")


class Project:
    """A checkout with the real Makefile."""

    def __init__(self, root: Path) -> None:
        """Write it, and an index that has a torch with CUDA."""
        self.root, self.index = root / "checkout", root / "index"
        self.root.mkdir()
        shutil.copy(ROOT / "Makefile", self.root)
        self.write("pyproject.toml", PYPROJECT)
        self.write("backend.py", BACKEND)
        self.write("constraints.txt", "torch==2.13.0\n")
        write_wheel(self.index, "torch", "2.13.0", "kind = 'cuda'")
        self.needs("torch>=2")

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf-8")

    def needs(self, *needs: str) -> None:
        write_wheel(self.root, "skipstone", "0.1.0", PROGRAM, *needs)

    def script(self, name: str, text: str) -> Path:
        """A command that stands for another Python."""
        path = self.root / name
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        write_index(self.index)
        # The tests may run under make themselves, which tells so to every make below it.
        others = ("PIP_", "MAKE", "MFLAGS")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        alone = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": self.index.as_uri()}
        return subprocess.run(
            ["make", *arguments],
            cwd=self.root,
            env=kept | alone | {"XDG_CONFIG_DIRS": "/nonexistent", "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_too_old_python_is_named_with_the_rule_and_the_remedy(project: Project) -> None:
    old = project.script("python3.9", f'exec {sys.executable} -c "{AS_OLD}" "$@"')
    (project.root / ".venv").mkdir()
    (project.root / ".venv" / "mine").touch()
    done = project.make("demo", f"PYTHON={old}")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == (
        f"{old} is Python 3.9.2; Skipstone needs Python 3.11 or newer: make demo PYTHON=python3.12"
    )
    assert (project.root / ".venv" / "mine").exists()


def test_a_python_that_is_not_there_is_named(project: Project) -> None:
    done = project.make("test", "PYTHON=python3.99")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == (
        "python3.99 is no command here; Skipstone needs Python 3.11 or newer: "
        "make test PYTHON=python3.12"
    )


def test_what_does_not_go_together_is_named(project: Project) -> None:
    write_wheel(project.index, "left", "1", "", "shared==1")
    write_wheel(project.index, "right", "1", "", "shared==2")
    write_wheel(project.index, "shared", "1", "")
    write_wheel(project.index, "shared", "2", "")
    project.needs("left", "right")
    done = project.make("demo", f"PYTHON={sys.executable}")
    assert done.returncode != 0
    for line in ("left 1 depends on shared==1", "right 1 depends on shared==2"):
        assert line in done.stderr
    project.needs("left", "torch")
    done = project.make("demo", f"PYTHON={sys.executable}")
    assert (done.returncode, done.stdout) == (0, "torch cuda compare\n")


def test_a_pin_that_cannot_be_met_is_named(project: Project) -> None:
    project.write("constraints.txt", "torch==2.12.0\n")
    done = project.make("demo", f"PYTHON={sys.executable}")
    assert done.returncode != 0
    assert "torch==2.12.0" in done.stderr


def test_the_environment_is_made_anew_by_another_python_and_by_no_other(project: Project) -> None:
    assert project.make("demo", f"PYTHON={sys.executable}").returncode == 0
    mark = project.root / ".venv" / "mark"
    mark.touch()
    stamp = (project.root / ".venv" / ".run").stat().st_mtime_ns
    for arguments in ((), (f"PYTHON={sys.executable}",)):
        assert project.make("demo", *arguments).returncode == 0
        assert mark.exists()
        assert (project.root / ".venv" / ".run").stat().st_mtime_ns == stamp  # no set-up again
    other = project.script(
        "python3.14",
        f'case "$2" in *sys.version\\)*) echo 3.14.0; exit;; esac\nexec {sys.executable} "$@"',
    )
    done = project.make("demo", f"PYTHON={other}")
    assert (done.returncode, done.stdout) == (0, "torch cuda compare\n")
    assert not mark.exists()


def test_an_environment_whose_python_is_gone_is_made_anew(project: Project) -> None:
    assert project.make("demo", f"PYTHON={sys.executable}").returncode == 0
    for python in (project.root / ".venv" / "bin").glob("python*"):
        python.unlink()
    done = project.make("demo")
    assert (done.returncode, done.stdout) == (0, "torch cuda compare\n")


def test_torch_can_come_from_another_index(project: Project, tmp_path: Path) -> None:
    other = tmp_path / "cpu"
    write_wheel(other, "torch", "2.13.0+cpu", "kind = 'cpu'")
    write_wheel(other, "torch", "2.14.0+cpu", "kind = 'too new'")
    write_index(other)
    done = project.make("demo", f"PYTHON={sys.executable}", f"TORCH_INDEX={other.as_uri()}")
    assert (done.returncode, done.stdout) == (0, "torch cpu compare\n")


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.partition("==") for line in lines if not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, _, version in pins}


def test_every_direct_dependency_is_pinned_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for need in map(Requirement, direct):
        if need.name != "triton":
            assert pinned()[re.sub(r"[-_.]+", "-", need.name).lower()] in need.specifier, need


def test_what_torch_pins_itself_is_not_pinned_here() -> None:
    # An index for Linux serves a torch that asks for one triton and its CUDA; that for another
    # platform asks for others.
    theirs = [name for name in pinned() if name.startswith(("triton", "nvidia-", "cuda-"))]
    assert theirs == []


def test_all_extras_are_tried_by_the_tests() -> None:
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = optional["optional-dependencies"]
    tried = {Requirement(need).name for need in extras.pop("dev")}
    for needs in extras.values():
        assert {Requirement(need).name for need in needs} <= tried
