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

from tests.conftest import ROOT


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
