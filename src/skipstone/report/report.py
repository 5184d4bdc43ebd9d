"""Reports of runs: as one HTML file, and chart by chart in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from skipstone.diagnosis.diagnose import Diagnosis
from skipstone.diff import Floor
from skipstone.extras import missing
from skipstone.kinds import of_kind
from skipstone.outputs import check_output, write_whole
from skipstone.record.recorded import Given
from skipstone.report.runs import Token
from skipstone.report.study import study
from skipstone.report.words import words

_DRAWING = ("altair", "vl_convert")


def write_report(
    traces: Sequence[Given],
    path: str | Path,
    *,
    names: Sequence[str] = (),
    sample: int = 0,
    floor: Floor | None = None,
    diagnosis: Diagnosis | None = None,
    token: Token | None = None,
    language: str = "en",
) -> Path:
    """Write one self-contained HTML file about two or more runs of one prompt.

    The file needs nothing else to be opened, and asks for nothing. Of more than two runs, the first
    and the one that first parts from it are looked at closely.

    Args:
        traces: recorders, what ``attach`` gave, traces or paths of traces; the first is the
            baseline.
        path: the file to write; an older one is replaced.
        names: what to call the runs; the folders of their traces if not given.
        sample: which request of each.
        floor: noise; estimated from the dtype if None.
        diagnosis: why the two runs part, from ``skipstone.diagnose``; left out if None.
        token: text of an id, such as ``model.text.token``; ids are shown as numbers if None.
        language: ``en`` or ``zh``, at first; the page has a switch.

    Returns:
        The path.

    Raises:
        ConfigError: fewer than two traces, not one prompt, an unknown language, or a package for
            drawing is missing.
        OutputError: the file cannot be written; an older one is still there.

    Example:
        ``write_report([a.trace, b.trace], "report.html", token=model.text.token)``
    """
    check_drawing()
    of_kind("path", path, (str, Path), "the file to write")
    of_kind("language", language, str, "en or zh")
    words(language)
    check_output(Path(path))
    from skipstone.report.page import render

    seen = study(traces, names=names, sample=sample, floor=floor, diagnosis=diagnosis, token=token)
    write_whole(Path(path), render(seen, language))
    return Path(path)


def check_drawing() -> None:
    """Refuse to go on where the packages that draw are missing.

    Raises:
        ConfigError: they are.
    """
    absent = [name for name in _DRAWING if find_spec(name) is None]
    if absent:
        raise missing(" and ".join(absent), "a report", "report")
