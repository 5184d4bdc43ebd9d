"""What ``attach`` was asked to record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from skipstone.tracing.record.recorder import Window

AttachLevel = Literal["decisions", "sketches", "window", "full"]


@dataclass(frozen=True)
class Wanted:
    """The arguments of ``attach``, checked."""

    mask_id: int
    eos_id: int
    """-1 if there is none."""
    num_layers: int
    level: AttachLevel
    window: Window | None
    path: Path | None
    """Folder of the trace; None keeps it in memory."""
    stated: dict[str, str]
    """Settings that were meant, in their text form."""
    prompt_length: int | None
    """None takes the first mask."""
    function_name: str
    """Empty takes the function that calls the model."""
    sanitize: bool
    score_offset: int | None
    """Which row scores a position; None to find out."""

    def path_of(self, run: int) -> Path | None:
        """Folder of a run, counted from 1: the first has the name that was given."""
        if self.path is None or run == 1:
            return self.path
        return self.path.with_name(f"{self.path.stem}-{run}{self.path.suffix}")
