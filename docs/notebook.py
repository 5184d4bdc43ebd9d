"""Run the example notebook and keep its outputs in it: ``python -m docs.notebook``, a minute.

It runs in an empty folder, so that nothing but what is installed can be imported, and what is kept
names no folder of this machine.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from skipstone.outputs import write_whole

NOTEBOOK = Path(__file__).parents[1] / "examples" / "divergence_tracing.ipynb"
# What depends on the Python that it ran on, and not on the notebook.
_LOCAL = ("language_info",)


def executed(folder: Path) -> Any:
    """The notebook, run from top to bottom by a kernel that works in ``folder``."""
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, record_timing=False, resources=place).execute()
    return notebook


def kept(notebook: Any) -> Any:
    """The same without what is there twice, and without what belongs to this machine."""
    for name in _LOCAL:
        notebook.metadata.pop(name, None)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if data.get("text/html") == data.get("image/svg+xml"):
                data.pop("text/html", None)
    return notebook


def main() -> None:
    """Run it, and write it back."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = kept(executed(Path(folder)))
    write_whole(NOTEBOOK, nbformat.writes(notebook))
    print(f"{NOTEBOOK.name}: {NOTEBOOK.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
