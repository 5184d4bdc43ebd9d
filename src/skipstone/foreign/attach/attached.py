"""The recorder that ``attach`` gives: what a user holds while a foreign loop runs.

Shape letters: B batch, L canvas length.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from skipstone.errors import ConfigError
from skipstone.foreign.attach.layers import callable_parts, hook_layers
from skipstone.foreign.attach.recording import Recording
from skipstone.foreign.attach.wanted import Wanted
from skipstone.foreign.shared.calls import host_ids
from skipstone.foreign.shared.compiled import active, compiled_of
from skipstone.foreign.shared.forwards import hook_forward
from skipstone.foreign.shared.methods import PICKS, READS, listening
from skipstone.record import MemoryTrace, RunRecord
from skipstone.sentence import counted


class Attached:
    """Fills as the loop goes: ``with attach(model) as recorder``, then ``recorder.records``."""

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], wanted: Wanted) -> None:
        """Attach nothing yet; see ``attach``."""
        self._model, self._layers, self._wanted = model, layers, wanted
        self._recording = Recording(model, layers, wanted)
        self._on = ExitStack()

    def __repr__(self) -> str:
        where = "" if self._wanted.path is None else f", kept in {str(self.path)!r}"
        runs = self._recording.runs
        return f"<Attached to {type(self._model).__name__}: {counted(runs, 'run')}{where}>"

    @property
    def traces(self) -> list[MemoryTrace]:
        """One for each run, if they are kept in memory."""
        return self._recording.traces

    @property
    def trace(self) -> MemoryTrace:
        """The last run, if it is kept in memory; empty before the first step is done."""
        return self.traces[-1] if self.traces else MemoryTrace()

    @property
    def path(self) -> Path | None:
        """Folder of the last run, if runs are kept on disk."""
        return self._wanted.path_of(max(1, self._recording.runs))

    @property
    def source(self) -> str:
        """``file.py:123`` of the line that called the model last, once the run is over."""
        return self._recording.source

    @property
    def records(self) -> list[RunRecord]:
        """One record for each prompt of the last run, if it is kept in memory."""
        return self.trace.records

    def finish(self, final_ids: Tensor, texts: Sequence[str] = ()) -> None:
        """Say how the run ended, where the loop's own tensors do not show it.

        Args:
            final_ids: [B, L] or [L], the whole canvas after the last commit.
            texts: the answers as text, one for each prompt.

        Raises:
            ConfigError: the canvas is not as long as that of the calls.
        """
        run = self._recording.run
        if run is None:
            raise ConfigError("finish was called before the model was; there is no run to finish")
        final_BL = host_ids(final_ids)
        if len(final_BL) != len(run.canvas_BL) or final_BL.shape[1] < run.length:
            raise ConfigError(
                f"finish was given ids of shape {final_BL.shape}, the canvas of the run is "
                f"{run.canvas_BL.shape}; give prompt and new tokens together"
            )
        self._recording.final_BL, self._recording.texts = final_BL, texts

    def __enter__(self) -> Self:
        """Put the hooks on."""
        compiled = compiled_of(self._model)
        parts = [*compiled.wrappers, *callable_parts(self._model, self._layers)]
        hook_forward(self._on, parts, self._recording, compiled.whole)
        hook_layers(self._on, self._layers, self._recording, compiled.whole)
        self._on.enter_context(listening(READS, self._recording.watch.read))
        self._on.enter_context(listening(PICKS, self._recording.picks.heard, ndim=(2, 3)))
        if self._wanted.level in ("window", "full"):
            self._recording.listening.begin(self._on)
        self._on.enter_context(active(self._recording.functions))
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        """Take the hooks off; the run ended by itself unless an exception is on its way.

        Raises:
            ConfigError: nothing was recorded at all.
        """
        self._on.close()
        self._recording.end(by_itself=kind is None)
