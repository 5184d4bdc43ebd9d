"""A file of answers, one JSON object a line in the order of the prompts; it is gone on with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skipstone.engine import Result
from skipstone.engine.prompts import Prompt
from skipstone.errors import ConfigError, OutputError
from skipstone.quoting import shown


@dataclass
class AnswerFile:
    """What is answered of some prompts."""

    path: Path
    model: str
    prompts: Sequence[Prompt]
    done: int = 0
    """How many are answered."""
    _settings: object = field(default=None, repr=False)

    @classmethod
    def open(cls, path: Path, model: str, prompts: Sequence[Prompt]) -> AnswerFile:
        """Read what there is; half a line at the end, of a run that was killed, is cut off.

        Args:
            path: of the file; there need not be one.
            model: as it was named.
            prompts: that are to be answered.

        Raises:
            OutputError: it cannot be read or written.
            ConfigError: it has answers to something else.
        """
        own = cls(path, model, prompts)
        if path.exists() and not path.is_file():
            # A device may have no end.
            raise OutputError(
                f"{shown(str(path))} is no file, which answers are added to; give a path for one, "
                f"or leave --output out to have them printed"
            )
        try:
            with path.open("a+b") as file:
                file.seek(0)
                *whole, rest = file.read().split(b"\n")
                for line in whole:
                    own._take(line)
                begun = f'{{"number": {own.done + 1}, "model": '.encode()
                if rest[: len(begun)] != begun[: len(rest)]:
                    raise own._stranger()
                file.truncate(sum(len(line) + 1 for line in whole))
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}") from None
        return own

    def append(self, result: Result) -> None:
        """Write the answer to the next prompt; it is on the disk when this returns.

        Raises:
            OutputError: the disk refuses it.
            ConfigError: the answers that were there are of other settings.
        """
        found = self._asked(self.done) | result.as_json()
        # As they are read again.
        settings = json.loads(json.dumps(found["settings"]))
        if self._settings not in (None, settings):
            raise ConfigError(
                f"{self.path} has answers under other settings; give another --output, or the "
                f"settings that it was begun with"
            )
        self._settings = settings
        try:
            with self.path.open("ab") as file:
                file.write(json.dumps(found, ensure_ascii=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror}") from None
        self.done += 1

    def _asked(self, place: int) -> dict[str, object]:
        """What names a prompt in the file."""
        prompt = self.prompts[place]
        asked = prompt if isinstance(prompt, str) else [*prompt]
        return {"number": place + 1, "model": self.model, "prompt": asked}

    def _take(self, line: bytes) -> None:
        """Count a line that was there.

        Raises:
            ConfigError: it is no answer to the next prompt.
        """
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        wanted = self._asked(self.done) if self.done < len(self.prompts) else None
        if (
            wanted is None
            or not isinstance(found, Mapping)
            or {name: found.get(name) for name in wanted} != wanted
        ):
            raise self._stranger()
        self._settings = found.get("settings")
        self.done += 1

    def _stranger(self) -> ConfigError:
        """The error of a line that is no answer to the next prompt."""
        return ConfigError(
            f"{shown(str(self.path))} line {self.done + 1} is no answer of model "
            f"{shown(self.model)} to prompt {self.done + 1}; give another --output"
        )
