"""The audit: two engines on the same prompts, and a log from which a broken-off audit goes on.

The log is a file of JSON lines: what was run first, then a row for each prompt with a checksum,
written as soon as it is known.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from zlib import crc32

from skipstone.diff.agreement import Row
from skipstone.diff.compare import Comparison, compare
from skipstone.engine import Engine
from skipstone.errors import ConfigError, OutputError, PromptError
from skipstone.outputs import check_append, write_whole
from skipstone.quoting import shown
from skipstone.record.plain import from_json, to_json
from skipstone.record.schema import RunRecord
from skipstone.tracing.record.recorder import Recorder

_FORMAT = {"format": "skipstone-audit", "schema": 2}
_CHECKED = re.compile(rb'\{"crc": (\d{1,10}), "row": (.*)\}')

Specs = Mapping[str, Mapping[str, str]]


def audit(
    baseline: Engine, candidate: Engine, prompts: Sequence[str], *, batch: int = 1
) -> Iterator[list[Row]]:
    """Decode prompts with both engines, some at a time.

    Args:
        baseline: the run that is trusted.
        candidate: the run that is to replace it.
        prompts: texts.
        batch: prompts to decode together.

    Yields:
        One row for each prompt of a batch, in order.

    Raises:
        PromptError: a prompt cannot be used; the message quotes its batch.
        ConfigError: the engines' models have different tokenizers or vocabularies.
    """
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        records_a, records_b = _records(baseline, part), _records(candidate, part)
        pairs = zip(part, records_a, records_b, strict=True)
        yield [_row(prompt, compare(a, b)) for prompt, a, b in pairs]


def describe(baseline: Engine, candidate: Engine) -> dict[str, dict[str, str]]:
    """Everything about two engines that decides what they answer."""
    from skipstone.version import __version__

    return {
        name: {
            "skipstone": __version__,
            "model": engine.model.name,
            "weights": engine.model.fingerprint,
            "dtype": str(engine.model.network.dtype).removeprefix("torch."),
            **engine.settings.as_text(),
        }
        for name, engine in (("baseline", baseline), ("candidate", candidate))
    }


class Log:
    """Rows of an audit, on disk if a path is given; what is written there is not run again."""

    def __init__(self, path: Path | None, specs: Specs) -> None:
        """Read the rows that are there, and cut off one that was not written to its end.

        Raises:
            ConfigError: the file is no log, or belongs to other settings.
            OutputError: it cannot be written to.
        """
        self._path = path
        self._head = {**_FORMAT, **{name: dict(texts) for name, texts in specs.items()}}
        self._seed = crc32(json.dumps(self._head).encode())
        self._rows = dict[str, Row]()
        if path is not None:
            self._open(path)

    def __contains__(self, prompt: str) -> bool:
        """Whether a prompt has its row."""
        return prompt in self._rows

    def __getitem__(self, prompt: str) -> Row:
        """The row of a prompt."""
        return self._rows[prompt]

    def add(self, rows: Sequence[Row]) -> None:
        """Keep rows; when this returns, they are on disk.

        Raises:
            OutputError: the disk refuses; earlier rows are kept.
        """
        self._rows |= {row.prompt: row for row in rows}
        self._write([_write_row(row, self._seed) for row in rows])

    def _open(self, path: Path) -> None:
        try:
            content = path.read_bytes() if path.is_file() or path.is_dir() else b""
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror}); check the path") from None
        whole, _, torn = content.rpartition(b"\n")
        lines = whole.split(b"\n") if whole else []
        if not lines and not torn:
            write_whole(path, f"{json.dumps(self._head)}\n")
            return
        self._check_head(path, lines[0] if lines else torn)
        for number, line in enumerate(lines[1:], start=2):
            row = _read_row(line, self._seed, f"{path}, line {number}")
            self._rows[row.prompt] = row
        check_append(path)
        if torn:
            os.truncate(path, len(whole) + 1)

    def _check_head(self, path: Path, line: bytes) -> None:
        found = _json_object(line)
        if found is None or {name: found.get(name) for name in _FORMAT} != _FORMAT:
            raise ConfigError(f"{path} is not the log of an audit; give another file")
        for side in ("baseline", "candidate"):
            if found.get(side) != self._head[side]:
                raise ConfigError(
                    f"{path} is the log of an audit of another {side} "
                    f"({_other(found.get(side), self._head[side])}); give another file"
                )

    def _write(self, lines: Sequence[str]) -> None:
        if self._path is None:
            return
        text = "".join(f"{line}\n" for line in lines)
        try:
            with self._path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self._path} cannot be written ({error.strerror}); finished prompts are kept"
            ) from None


def _records(engine: Engine, prompts: Sequence[str]) -> list[RunRecord]:
    recorder = Recorder()
    try:
        engine.generate_batch(prompts, observer=recorder)
    except PromptError as error:
        raise PromptError(f"{shown(prompts[0])} and what follows: {error}") from None
    return recorder.records


def _row(prompt: str, found: Comparison) -> Row:
    start, first = found.a.prompt_length, found.first
    assert found.a.outcome is not None
    assert found.b.outcome is not None
    row = Row(
        prompt=prompt,
        text_a=found.a.outcome.text,
        text_b=found.b.outcome.text,
        differing_positions=tuple(p - start for p in found.differing_positions),
        forwards_a=len(found.a.steps),
        forwards_b=len(found.b.steps),
    )
    if first is None:
        return row
    place = first.position - start
    return replace(row, kind=first.kind, block=first.block, step=first.step, position=place)


def _json_object(line: bytes) -> dict[str, object] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _other(found: object, wanted: object) -> str:
    """The first setting in which a log differs."""
    if not isinstance(found, dict) or not isinstance(wanted, dict):
        return "it names none"
    names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    return f"{names[0]}={found.get(names[0])}, now {names[0]}={wanted.get(names[0])}"


def _write_row(row: Row, seed: int) -> str:
    """A line whose checksum is bound, by the seed, to what was run."""
    text = to_json(row)
    return f'{{"crc": {crc32(text.encode(), seed)}, "row": {text}}}'


def _read_row(line: bytes, seed: int, where: str) -> Row:
    """The row of a line, as it was written here: a changed one must not decide a verdict."""
    found = _CHECKED.fullmatch(line)
    try:
        if found is None or crc32(found[2], seed) != int(found[1]):
            raise ValueError("its checksum does not fit")
        return from_json(Row, found[2].decode())
    except ValueError as error:
        raise ConfigError(
            f"{where} is no row of an audit ({error}); delete the line, and the prompt is run again"
        ) from None
