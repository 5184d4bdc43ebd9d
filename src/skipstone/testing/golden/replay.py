"""Decodes a recorded case, and says where it first differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

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
    eos_id: int = -1
    early_eos: str = ""
    """Where EOS was first the best token right of a mask, before there was any; empty: nowhere."""

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        """Note which token ends an answer."""
        self.eos_id = model.config.eos_id

    def on_step(self, view: StepView) -> None:
        """Note a forward."""
        before, after = view.before.ids_BG[0], view.after.ids_BG[0]
        filled = view.after.status_BG[0] == Status.FILLED
        changed = ((before != after) & ~filled).nonzero()[0]
        self.filled = frozenset(filled.nonzero()[0].tolist())
        self.forwards.append(tuple((int(at), int(after[at])) for at in changed))
        early = self._early_eos(view)
        if early.size and not self.early_eos:
            self.early_eos = f"offset {early[0]} in forward {len(self.forwards) - 1}"

    def _early_eos(self, view: StepView) -> np.ndarray:
        """Offsets of masks that were scored, right of one of their block, whose token is EOS."""
        (at,), ids_G = view.context.requests, view.before.ids_BG[0]
        masked_G = np.zeros(ids_G.size, dtype=bool)
        block = slice(at.block.start, at.block.stop)
        masked_G[block] = view.before.status_BG[0, block] == Status.MASK
        if (ids_G == self.eos_id).any():
            return np.zeros(0, dtype=np.int64)
        token_G, scored_at_G = view.board.token_BG[0].numpy(), view.board.scored_at_BG[0].numpy()
        eos_G = masked_G & (token_G == self.eos_id) & (scored_at_G == at.forward)
        return 1 + np.flatnonzero(masked_G[:-1] & eos_G[1:])

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
    if case.delays_eos and seen.early_eos:
        return f"delay_eos_generation keeps EOS from {seen.early_eos}, and no setting does"
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
