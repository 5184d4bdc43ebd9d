"""The result as one file: what was measured, where and when, and the figures as flat tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch

from skipstone.bench.cells import GenerationCell, RefreshCell, SkipCell, StepCell
from skipstone.bench.gate import Check
from skipstone.bench.peers.beside import PeerCell
from skipstone.bench.run import Cell, Unmeasured
from skipstone.bench.timing import Rig
from skipstone.outputs import write_whole
from skipstone.version import __version__

TABLES: tuple[tuple[str, type[Cell]], ...] = (
    ("steps", StepCell),
    ("skips", SkipCell),
    ("refreshes", RefreshCell),
    ("generations", GenerationCell),
    ("peers", PeerCell),
    ("unmeasured", Unmeasured),
)


@dataclass(frozen=True, eq=False)
class Page:
    """Everything found, or found so far."""

    command: str
    rig: Rig
    gate: Sequence[Check]
    cells: Sequence[Cell]
    """A list that grows may stand here; ``save`` writes what it holds."""

    def as_json(self, *, finished: bool) -> dict[str, object]:
        """Plain data: facts, then one list of flat objects for each kind of cell."""
        network = self.rig.model.network
        facts = {
            "command": self.command,
            "date": date.today().isoformat(),
            "finished": finished,
            "skipstone": __version__,
            "model": self.rig.model.name,
            "card": asdict(self.rig.card),
            "torch": torch.__version__,
            "dtype": str(network.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads() if network.device.type == "cpu" else None,
            "repeats": self.rig.repeats,
            "gate": [asdict(check) for check in self.gate],
        }
        found = {n: [asdict(c) for c in self.cells if isinstance(c, kind)] for n, kind in TABLES}
        return {**facts, **{name: rows for name, rows in found.items() if rows}}

    def save(self, path: Path, *, finished: bool) -> None:
        """Write the file in one go, so that a killed bench leaves what it had found.

        Raises:
            OutputError: it cannot be written.
        """
        text = json.dumps(self.as_json(finished=finished), indent=1, allow_nan=False)
        write_whole(path, f"{text}\n")
