"""Rules that raise: each becomes a line of the diagnosis, and the others go on."""

from __future__ import annotations

import traceback
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from skipstone.errors import SkipstoneError
from skipstone.quoting import within
from skipstone.sentence import Code, Sentence

_LONGEST = 120


@dataclass
class Went:
    """How one question went."""

    wrong: bool = False


@dataclass(eq=False)
class Unjudged:
    """What could not be judged, by the reason: rules that share a fact fail together."""

    _names: dict[str, list[str]] = field(default_factory=dict)

    @contextmanager
    def within(self, name: str) -> Generator[Went]:
        """Keep an error of ours, with the name of the rule; what is meant for the user is raised.

        Args:
            name: of the rule that is asked.
        """
        went = Went()
        try:
            yield went
        except SkipstoneError:
            raise
        except Exception as error:
            went.wrong = True
            names = self._names.setdefault(_reason(error), [])
            if name not in names:
                names.append(name)

    def said(self) -> tuple[Sentence, ...]:
        """One line for each reason."""
        return tuple(
            Sentence("{rules}: {error}", rules=Code(", ".join(names)), error=Code(reason))
            for reason, names in self._names.items()
        )


def _reason(error: Exception) -> str:
    """What was raised and where, in one line: enough to report it by."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    words = " ".join(str(error).split())
    return within(f"{type(error).__name__}{where}: {words}".rstrip(": "), _LONGEST)
