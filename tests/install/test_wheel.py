"""The wheel carries the embedded model and answers in an environment of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.docs.pages import blocks

pytestmark = pytest.mark.wheel

CORE = {"torch", "numpy", "ml-dtypes", "safetensors", "tokenizers", "huggingface-hub", "jinja2"}
CORE |= {"click", "rich", "xxhash"}
"""What every installation gets; what only one command needs is an extra."""
EXTRAS = {"dev", "docs", "export", "lm-eval", "ray", "replicas", "report", "serve", "sweep"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # What builds it is installed; that a bare pip builds it, too, is for `.ci/elsewhere` to see.
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    command = [*build, "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_model_and_no_more(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    pebble = [name for name in names if name.startswith("skipstone/data/pebble/")]
    assert {"config.json", "tokenizer.json"} <= {Path(name).name for name in pebble}
    assert any(name.endswith(".safetensors") for name in pebble)
    page = ROOT / "src" / "skipstone" / "server" / "page"
    assert {f"skipstone/server/page/{one.name}" for one in page.iterdir()} <= set(names)
    assert "skipstone/py.typed" in names
    assert all(name.startswith(("skipstone/", "skipstone-")) for name in names)
    assert wheel.stat().st_size < 34e6


def test_the_wheel_says_what_it_is_and_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        about = Metadata.from_email(file.read(name))  # refuses what the standard does not allow
    assert (about.name, str(about.requires_python)) == ("skipstone", ">=3.11")
    assert (about.license_expression, about.license_files) == ("Apache-2.0", ["LICENSE"])
    assert about.author or about.author_email
    assert about.summary
    assert about.description_content_type == "text/markdown"
    assert "make demo" in (about.description or "")
    assert len(about.keywords or []) >= 5
    assert all(url.startswith("https://") for url in (about.project_urls or {}).values())
    assert about.project_urls
    named = {c.rpartition(" :: ")[2] for c in about.classifiers or [] if "Python :: 3." in c}
    assert named == {"3.11", "3.12", "3.13"}
    needs = about.requires_dist or []
    assert {canonicalize_name(need.name) for need in needs if need.marker is None} == CORE
    assert set(about.provides_extra or []) == EXTRAS


def core_packages() -> set[str]:
    """The distributions that come with Skipstone when no extra is asked for."""
    found, left = set[str](), [*CORE]
    while left:
        name = canonicalize_name(left.pop())
        if name in found:
            continue
        found.add(name)
        needs = [Requirement(line) for line in metadata.requires(name) or ()]
        here = [
            need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})
        ]
        left += [need.name for need in here]
    return found


class Bare:
    """An environment with the wheel and what it asks for; its folder is empty."""

    def __init__(self, root: Path, wheel: Path) -> None:
        """Install the wheel; its dependencies are lent by path, so that nothing is downloaded."""
        self.folder, self._lent = root / "folder", root / "lent"
        self.root = root
        venv.create(root / "bare", with_pip=True)
        self._python = root / "bare" / "bin" / "python"
        install = ["-m", "pip", "install", "--no-deps", "--no-index", str(wheel)]
        subprocess.run([self._python, *install], check=True, capture_output=True)
        self.folder.mkdir()
        self._lent.mkdir()
        site = Path(sysconfig.get_paths()["purelib"])
        for name in core_packages():
            files = metadata.distribution(name).files or ()
            for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
                (self._lent / top).symlink_to(site / top)

    def run(self, *arguments: str) -> str:
        """What its Python prints."""
        done = subprocess.run(
            [self._python, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            # Without a number of threads, torch takes every core from the tests beside this one.
            env={"PYTHONPATH": str(self._lent), "PATH": "", "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode in (0, 1, 3), done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Bare:
    return Bare(tmp_path_factory.mktemp("bare"), wheel)


def test_the_wheel_answers_in_a_bare_environment(bare: Bare) -> None:
    code = (
        "import json, skipstone\n"
        "result = skipstone.Engine(skipstone.load('pebble')).generate('Who is Newton, physics?')\n"
        "print(json.dumps([skipstone.__file__, result.text]))"
    )
    origin, text = json.loads(bare.run("-c", code))
    assert origin.startswith(str(bare.root))
    assert text.startswith("Isaac Newton")


def test_the_core_is_all_that_its_commands_need(bare: Bare) -> None:
    found = bare.run(
        "-c", "from importlib.util import find_spec as f; print(f('scipy'), f('numpy'))"
    )
    assert found.startswith("None ModuleSpec")  # the control: only what is asked for was lent
    short = ("--gen-length", "16", "--block-length", "16")
    both = ("--baseline", "cache=none", "--candidate", "cache=dual")
    (bare.folder / "prompts.txt").write_text("Who is Newton, physics?\nHello\n", encoding="utf-8")
    prompts = ("--prompts", "prompts.txt", "--max-disagreement", "50%")
    audit = bare.run("-m", "skipstone", "audit", *both, *prompts, "--junit", "out.xml", *short)
    assert "audit of 2 prompts" in audit
    assert (bare.folder / "out.xml").exists()
    bare.run("-m", "skipstone", "trace", "Hello", "-o", "a.trace", *short)
    assert "the same settings" in bare.run("-m", "skipstone", "diff", "a.trace", "a.trace")


def test_the_readme_runs_from_any_folder_once_installed(bare: Bare) -> None:
    pythons = [b.code for b in blocks(ROOT / "README.md") if b.language == "python"]
    (own,) = [code for code in pythons if "st.explain(" in code]
    assert "misaligned_rows" in bare.run("-c", own)
    lines = [line for code in pythons for line in code.splitlines()]
    bare.run("-c", "\n".join(line for line in lines if re.match("import|from", line)))
