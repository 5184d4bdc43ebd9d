"""Decodes a recorded case, and says where it first differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from skipstone.canvas import Status
from skipstone.engine import Engine, Result, Settings, parse_settings
from skipstone.engine.observe import StepView, Taps
from skipstone.errors import SkipstoneError
from skipstone.models.load import Model
from skipstone.testing.golden.case import Commits, GoldenAnswer, GoldenCase


@dataclass
class Commitments:
    """An observer that notes what every forward changed behind the prompt."""

    taps: Taps = field(default_factory=Taps)
    forwards: list[Commits] = field(default_factory=list)
    filled: frozenset[int] = frozenset()
    """Offsets that a stop has filled in."""

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        """Nothing is needed of a run before its first step."""

    def on_step(self, view: StepView) -> None:
        """Note a forward."""
        before, after = view.before.ids_BG[0], view.after.ids_BG[0]
        filled = view.after.status_BG[0] == Status.FILLED
        changed = ((before != after) & ~filled).nonzero()[0]
        self.filled = frozenset(filled.nonzero()[0].tolist())
        self.forwards.append(tuple((int(at), int(after[at])) for at in changed))

    def on_end(self, results: Sequence[Result]) -> None:
        """Nothing is left to note."""


def miss(model: Model, case: GoldenCase) -> str:
    """How decoding a case differs from what is recorded; empty if it does not.

    Args:
        model: the checkpoint of the case, in float32.
        case: what to decode, and what must come.
    """
    seen = Commitments()
    try:
        engine = Engine(model, parse_settings(case.settings).all_stated())
        result = engine.generate(list(case.prompt), observer=seen)
    except SkipstoneError as error:
        return f"the engine refuses it: {error}"
    end = len(case.wanted.tokens) if case.wanted.is_cut else None
    decoded = [token for at, token in enumerate(result.tokens) if at not in seen.filled]
    tokens = tuple(decoded[:end])
    said = ""
    if case.wanted.commits is not None:
        said = _in_commits([step for step in seen.forwards if step], case.wanted.commits)
    return said or _in_tokens(tokens, case.wanted) or _in_forwards(result, case.wanted)


def _in_commits(found: Sequence[Commits], wanted: Sequence[Commits]) -> str:
    for step, (ours, theirs) in enumerate(zip(found, wanted, strict=False)):
        if ours != theirs:
            return f"step {step} committed {_shown(ours)}, recorded is {_shown(theirs)}"
    if len(found) != len(wanted):
        return f"{len(found)} steps committed something, recorded are {len(wanted)}"
    return ""


def _in_tokens(found: Sequence[int], wanted: GoldenAnswer) -> str:
    if len(found) != len(wanted.tokens):
        return f"{len(found)} tokens, recorded are {len(wanted.tokens)}"
    for offset, (ours, theirs) in enumerate(zip(found, wanted.tokens, strict=True)):
        if ours != theirs:
            return f"token {ours} at offset {offset}, recorded is {theirs}"
    return ""


def _in_forwards(result: Result, wanted: GoldenAnswer) -> str:
    took = result.stats.num_forwards
    if wanted.forwards is not None and took > wanted.forwards:
        return f"{took} forwards, recorded are {wanted.forwards}"
    return ""


def _shown(step: Commits) -> str:
    return ", ".join(f"{token} at offset {at}" for at, token in step)
