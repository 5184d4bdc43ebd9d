"""What is seen of one answer beside its text, where somebody asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from skipstone.engine.observe import Observer, Observers
from skipstone.server.answer.canvas import CanvasWatch
from skipstone.server.answer.chances import CommitChances
from skipstone.server.answer.logprobs import ToldToken
from skipstone.server.answer.plan import Ask
from skipstone.server.answer.text import FinalText
from skipstone.server.traces.recording import AnswerTrace
from skipstone.text import Text


@dataclass(frozen=True)
class AnswerWatch:
    """Observers of one request; none where nobody asks, and then nobody pays."""

    chances: CommitChances | None
    canvas: CanvasWatch | None
    trace: AnswerTrace | None
    """What is recorded of it."""
    told: list[ToldToken] = field(default_factory=list[ToldToken])
    """Tokens whose log-probabilities were taken so far."""

    @classmethod
    def of(cls, ask: Ask, text: Text) -> AnswerWatch:
        """What an answer needs; ``text`` is the model's."""
        chances = None if ask.told_beside is None else CommitChances(ask.told_beside)
        canvas = CanvasWatch(text) if ask.canvas else None
        return cls(chances, canvas, None if ask.trace is None else AnswerTrace(ask.trace))

    @property
    def observer(self) -> Observer | None:
        """All of it as one; None: there is nothing to watch."""
        recorder = None if self.trace is None else self.trace.recorder
        every = (self.chances, self.canvas, recorder)
        members = tuple(one for one in every if one is not None)
        return Observers(members) if members else None

    def take(self, text: FinalText) -> tuple[ToldToken, ...]:
        """What tokens of the answer's text are new, if their log-probabilities are asked for."""
        if self.chances is None:
            return ()
        committed = self.chances.committed
        new = tuple(ToldToken(token.start, committed[token.offset]) for token in text.new_tokens())
        self.told.extend(new)
        return new
