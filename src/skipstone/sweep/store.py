"""A sweep on disk: one Parquet file for each finished prompt, so that a killed sweep goes on.

Beside the file of a prompt whose changed answers wait for their causes lies one for each that was
found since; all that were asked for make one file with it again. Each row says how long its cause
was looked for, so that nothing but the rows says what is left to do.

A file is written beside its place and renamed, so what has its name is whole; that it was not
changed since is checked when it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from skipstone.diff.agreement import Question
from skipstone.errors import ConfigError, OutputError
from skipstone.extras import missing
from skipstone.outputs import check_output, is_part, whole_file, write_whole
from skipstone.quoting import one_line, whole_characters
from skipstone.sweep.measure import Measurement

if TYPE_CHECKING:
    import pyarrow as pa

_FORMAT = {"format": "skipstone-sweep", "schema": 5}
_CHECKSUM = b"skipstone.sha256"
Head = Mapping[str, object]

COLUMNS = {
    "prompt": "int32",
    "setting": "string",
    "text": "string",
    "tokens": "int32[]",
    "right": "bool",
    "same_answer": "bool",
    "same_tokens": "float64",
    "kind": "string",
    "block": "int32",
    "step": "int32",
    "position": "int32",
    "forward": "int32",
    "forwards": "int32",
    "rows": "int64",
    "generated": "int32",
    "masks_left": "int32",
    "skip_share": "float64",
    "flops": "float64",
    "seconds": "float64",
    "tokens_per_second": "float64",
    "timed": "bool",
    "cause": "string",
    "proof": "string",
    "evidence": "string",
    "time_limit": "float64",
}
"""Column types of the Parquet files; all but the two of time are the same in every run."""


def check_parquet() -> None:
    """Refuse to start what could not be written.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise missing("pyarrow", "the Parquet file of a sweep", "sweep") from None


def make_folder(folder: Path) -> Path:
    """Make the folder of a sweep, if it is not there, and in it the one of the parts.

    Returns:
        The folder of the parts.

    Raises:
        OutputError: it cannot be made.
    """
    parts = folder / "parts"
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from None
    return parts


def digest(questions: Sequence[Question]) -> str:
    """Checksum over prompts, answers and judges, in order."""
    told = [[q.prompt, q.answer, q.judge] for q in questions]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


class Store:
    """The folder of a sweep."""

    def __init__(self, folder: Path, head: Head) -> None:
        """Make the folder, or go on with it.

        Raises:
            ConfigError: the folder holds something else, or a sweep of something else.
            OutputError: it cannot be written to.
        """
        self.folder = folder
        self._parts = make_folder(folder)
        self._head = {**_FORMAT, **head}
        try:
            self._open()
        except OSError as error:
            raise _unusable(folder, error) from None

    def __contains__(self, prompt: int) -> bool:
        """Whether a prompt is decoded."""
        return self._part(prompt).exists()

    def add(self, found: Sequence[Measurement]) -> None:
        """Keep all measurements of one prompt, with the causes so far; then they are on disk.

        Raises:
            OutputError: the disk refuses; what was kept before is.
        """
        prompt = found[0].prompt
        self._keep(self._part(prompt), found)
        for cause in self._parts.glob(f"{prompt:06}.*.parquet"):
            cause.unlink()

    def add_cause(self, place: int, found: Measurement) -> None:
        """Keep a measurement whose cause was found; when this returns, it is on disk.

        Args:
            place: of it among the measurements of its prompt.
            found: of a prompt that was added.

        Raises:
            OutputError: the disk refuses; what was kept before is.
        """
        self._keep(self._cause(found.prompt, place), [found])

    def read(self, prompt: int) -> list[Measurement]:
        """The measurements of a prompt that is decoded, with the causes so far.

        Raises:
            ConfigError: a file is damaged.
        """
        rows = self._read(self._part(prompt), prompt)
        for place in range(len(rows)):
            cause = self._cause(prompt, place)
            if cause.exists():
                rows[place] = self._read(cause, prompt)[0]
        return rows

    def finish(self, found: Sequence[Measurement], questions: Sequence[Question]) -> None:
        """Write ``results.parquet``: all measurements, each with its question and answer."""
        import pyarrow as pa

        told = [questions[m.prompt] for m in found]
        table = _table(found)
        for name, values in (
            ("question", [_text(q.prompt) for q in told]),
            ("answer", [_text(q.answer) for q in told]),
            ("family", [_text(q.family) for q in told]),
        ):
            table = table.append_column(name, pa.array(values, pa.string()))
        self._write("results.parquet", table)

    def save(self, name: str, write: Callable[[Path], object]) -> Path:
        """Write another file of the folder: whole, or not at all.

        Args:
            name: its name.
            write: writes it to the path that it is given.

        Raises:
            OutputError: it cannot be written; finished prompts are kept.
        """
        with whole_file(self.folder / name) as part:
            write(part)
        return self.folder / name

    def _part(self, prompt: int) -> Path:
        return self._parts / f"{prompt:06}.parquet"

    def _cause(self, prompt: int, place: int) -> Path:
        return self._parts / f"{prompt:06}.{place:03}.parquet"

    def _keep(self, path: Path, found: Sequence[Measurement]) -> None:
        table = _table(found)
        told = table.replace_schema_metadata({_CHECKSUM: self._checksum(table.to_pylist())})
        self._write(f"{self._parts.name}/{path.name}", told)

    def _read(self, path: Path, prompt: int) -> list[Measurement]:
        """Measurements of one prompt, as they were written in this sweep."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with path.open("rb") as file:
                table = pq.read_table(file)
            rows = table.to_pylist()
            if (table.schema.metadata or {}).get(_CHECKSUM) != self._checksum(rows):
                raise ValueError("its checksum does not fit")
            if any(row["prompt"] != prompt for row in rows):
                raise ValueError("it is of another prompt")
            return [
                Measurement(**cast("dict[str, Any]", row | {"tokens": tuple(row["tokens"])}))
                for row in rows
            ]
        except (OSError, pa.ArrowException, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{path} is damaged ({one_line(error)}); delete it, and what it held is run again"
            ) from None

    def _checksum(self, rows: Sequence[Mapping[str, object]]) -> bytes:
        """Over measurements, and over what the sweep is of."""
        return hashlib.sha256(json.dumps([self._head, rows]).encode()).hexdigest().encode()

    def _open(self) -> None:
        """Check what the folder is for, or write it down."""
        path = self.folder / "sweep.json"
        if not path.exists():
            others = [p for p in self.folder.iterdir() if p != self._parts and not is_part(p)]
            if others or any(self._parts.iterdir()):
                raise ConfigError(f"{self.folder} holds other files; give a new folder with -o")
            text = json.dumps(self._head, indent=1) + "\n"
            write_whole(path, text)
            return
        check_output(path)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or any(found.get(n) != v for n, v in _FORMAT.items()):
            raise ConfigError(f"{path} is not of a sweep this version knows; give a new folder")
        for name, wanted in self._head.items():
            if found.get(name) != wanted:
                raise ConfigError(
                    f"{self.folder} is a sweep with another {_other(name, found.get(name), wanted)}"
                    f"; give a new folder with -o, or the same command as before"
                )

    def _write(self, name: str, table: pa.Table) -> None:
        import pyarrow.parquet as pq

        def write(part: Path) -> None:
            with part.open("wb") as file:  # a path that is no UTF-8 is none for the library
                pq.write_table(table, file)

        self.save(name, write)


def _unusable(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"{folder} cannot be used ({error.strerror}); give another folder with -o")


def _other(name: str, found: object, wanted: object) -> str:
    """What differs, down to the one entry of a list or table."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        key = next(k for k in {**wanted, **found} if found.get(k) != wanted.get(k))
        return f"{name} ({key}={found.get(key)}, now {wanted.get(key)})"
    if isinstance(found, list) and isinstance(wanted, list):
        gone = [x for x in found if x not in wanted]
        new = [x for x in wanted if x not in found]
        return f"list of {name} (had {gone[:1] or 'the same'}, now has {new[:1] or 'fewer'})"
    return f"{name} ({found}, now {wanted})"


def _table(found: Sequence[Measurement]) -> pa.Table:
    import pyarrow as pa

    def kind(name: str) -> pa.DataType:
        one = pa.type_for_alias(name.removesuffix("[]"))
        return pa.list_(one) if name.endswith("[]") else one

    schema = pa.schema([(name, kind(text)) for name, text in COLUMNS.items()])
    rows = [{name: _text(value) for name, value in asdict(row).items()} for row in found]
    return pa.Table.from_pylist(rows, schema=schema)


def _text(value: object) -> object:
    """A value as Parquet takes it: text is UTF-8 there."""
    return whole_characters(value) if isinstance(value, str) else value
