"""The recorder that ``attach`` gives: what a user holds while a foreign loop runs.

Shape letters: B batch, L canvas length.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

import numpy as np
from torch import Tensor, nn

from skipstone.errors import ConfigError
from skipstone.foreign.attach.canvases import on_host
from skipstone.foreign.attach.hooks import hook
from skipstone.foreign.attach.recording import Recording
from skipstone.foreign.attach.wanted import Wanted
from skipstone.foreign.positions.sanitize import sanitize
from skipstone.foreign.shared.compiled import active
from skipstone.record import MemoryTrace, RunRecord


class Attached:
    """Fills as the loop goes: ``with attach(model) as recorder``, then ``recorder.records``."""

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], wanted: Wanted) -> None:
        """Attach nothing yet; see ``attach``."""
        self._model, self._layers, self._wanted = model, layers, wanted
        self._recording = Recording(model, layers, wanted)
        self._on = ExitStack()

    @property
    def traces(self) -> list[MemoryTrace]:
        """One for each run, if they are kept in memory."""
        return self._recording.traces

    @property
    def trace(self) -> MemoryTrace:
        """The last run, if it is kept in memory; empty before the first step is done."""
        return self.traces[-1] if self.traces else MemoryTrace()

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
        final_BL = np.atleast_2d(on_host(final_ids))
        if final_BL.shape != run.canvas_BL.shape:
            raise ConfigError(
                f"finish was given ids of shape {final_BL.shape}, the canvas of the run is "
                f"{run.canvas_BL.shape}; give prompt and new tokens together"
            )
        self._recording.final_BL, self._recording.texts = final_BL, texts

    def __enter__(self) -> Self:
        """Put the hooks on."""
        if self._wanted.sanitize:
            # First, so that the watch does not see what the sanitizer computes for itself.
            watched = sanitize(self._model, mask_id=self._wanted.mask_id)
            self._recording.found = self._on.enter_context(watched).findings
        hook(self._on, self._model, self._layers, self._recording)
        self._on.enter_context(active(self._recording.watch))
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        """Take the hooks off; the run ended by itself unless an exception is on its way."""
        self._on.close()
        self._recording.end(by_itself=kind is None)
