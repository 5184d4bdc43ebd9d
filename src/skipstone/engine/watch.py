"""The observer of one request, which is decoded beside others that it does not see."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from skipstone.canvas import RequestStep
from skipstone.engine.ages import Ages
from skipstone.engine.alone import alone
from skipstone.engine.observe import Observer, StepView, Taps
from skipstone.engine.result import Result
from skipstone.engine.settings import Settings
from skipstone.errors import ConfigError
from skipstone.models.load import Model
from skipstone.quoting import shown

_LOG = logging.getLogger(__name__)


class RequestWatch:
    """Tells an observer of one request, from when it is admitted until it leaves.

    ``begin`` and ``show`` raise what the observer raises, which ends the request; an observer that
    has raised is told nothing more.
    """

    def __init__(self, observer: Observer, model: Model) -> None:
        """Nothing has begun.

        Args:
            observer: of one request.
            model: that decodes it.

        Raises:
            ConfigError: it is no observer.
        """
        for name in ("on_start", "on_step", "on_end"):
            if not callable(getattr(observer, name, None)):
                raise ConfigError(
                    f"observer is {shown(observer)}, which has no {name}; an observer has taps, "
                    f"on_start, on_step and on_end, as Recorder() does"
                )
        self.observer = observer
        self.taps = Taps()
        """What it wants, once the request has begun."""
        self._model = model
        self._ages: Ages | None = None
        self._open = False

    @property
    def watches(self) -> bool:
        """Whether the request has begun, and the observer was not told of its end yet."""
        return self._open

    def begin(self, settings: Settings, prompt: Sequence[int]) -> None:
        """The request was admitted."""
        self.taps = self.observer.taps
        self.observer.on_start(self._model, settings, [prompt])
        self._open = True

    def show(self, view: StepView, at: RequestStep) -> None:
        """A step was taken, in which the request was at ``at``."""
        own = alone(view, at, self.taps)
        if self._ages is None:
            self._ages = Ages.start(own.context.canvas)
        self._ages.note(own.context, own.rows, own.finished)
        ages = self._ages.copy()
        own = replace(own, entered_at_BL=ages.entered_at_BL, finished_at_BL=ages.finished_at_BL)
        try:
            self.observer.on_step(own)
        except BaseException:
            self._open = False
            raise

    def end(self, result: Result) -> None:
        """The request is decoded. Raises what the observer raises."""
        if self._open:
            self._open = False
            self.observer.on_end([result])

    def stop(self) -> None:
        """The request left without a result, if it had begun: the observer may close its record.

        What it raises then is logged: the request has ended already, with an error or cancelled.
        """
        if not self._open:
            return
        self._open = False
        try:
            self.observer.on_end([])
        except Exception:
            _LOG.exception("on_end of the observer of a request that has no result failed")
