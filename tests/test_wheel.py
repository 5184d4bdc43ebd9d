"""The wheel carries the embedded model and answers in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

CORE = {"torch", "numpy", "ml-dtypes", "safetensors", "tokenizers", "huggingface-hub", "jinja2"}
CORE |= {"click", "rich", "xxhash"}
"""What every installation gets; what only one command needs is an extra."""
EXTRAS = {"dev", "docs", "export", "lm-eval", "ray", "report", "sweep"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.wheel
def test_the_wheel_holds_the_model_and_no_more(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    pebble = [name for name in names if name.startswith("skipstone/data/pebble/")]
    assert {"config.json", "tokenizer.json"} <= {Path(name).name for name in pebble}
    assert any(name.endswith(".safetensors") for name in pebble)
    assert "skipstone/py.typed" in names
    assert all(name.startswith(("skipstone/", "skipstone-")) for name in names)
    assert wheel.stat().st_size < 34e6


@pytest.mark.wheel
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


@pytest.mark.wheel
def test_the_wheel_answers_in_a_bare_environment(wheel: Path, tmp_path: Path) -> None:
    # The dependencies are lent by path, so that the test needs no download; Skipstone itself is
    # not among them, for it is installed here as a link to the source tree.
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    lent = tmp_path / "lent"
    lent.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "skipstone" not in entry.name.lower():
            (lent / entry.name).symlink_to(entry)
    code = (
        "import json, skipstone\n"
        "result = skipstone.Engine(skipstone.load('pebble')).generate('Who is Newton, physics?')\n"
        "print(json.dumps([skipstone.__file__, result.text]))"
    )
    done = subprocess.run(
        [str(python), "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(lent), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    origin, text = json.loads(done.stdout)
    assert origin.startswith(str(tmp_path / "bare"))
    assert text.startswith("Isaac Newton")
