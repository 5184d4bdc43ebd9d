"""What is written down about a run of one request, its *sample*.

Positions are absolute: position 0 is the first prompt token. Forwards are counted from 0 over the
whole run, blocks and steps within a block from 0, layers from 1 (0 is the embedding). An age is
counted in forwards: 0 means computed in this one; -1 stands for never.

Shape letters: L canvas length, G generation length, N rows, Y layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from zlib import crc32

import numpy as np

from skipstone.record.candidates import Candidates
from skipstone.record.judgements import Judgements

ASSIGNED = " (assigned)"
"""Ends the name of a setting that a loop has set itself since it was called."""
LAST_UNSEEN = (
    "the canvas that the loop made of its last call was not seen: what that call committed is not "
    "known"
)
"""What a run says that ended by itself, and whose last canvas is not known."""
WITHIN = "given."
"""Begins what an environment has of plain values within the objects that a loop was given."""
SCORE_OFFSET = "score_offset"
"""Kind of the event that says which row scores a position of a foreign run: number ``offset``."""

LOOP_WAS_GIVEN = "loop was given"
"""What an environment calls the names of the loop's arguments, and of those of the model."""
RANDOM_CALLS = "random calls"
"""What an environment calls the functions by which the first decision drew random numbers, each
with the shape of what it drew over, such as ``rand:1x32x126464``; ``none`` where it called none."""


@dataclass(frozen=True)
class Header:
    """What was run on what."""

    model: str
    num_layers: int
    width: int
    vocab_size: int
    mask_id: int
    eos_id: int
    dtype: str
    """Of weights and states."""
    device: str
    settings: dict[str, str]
    """Every setting in its text form; empty for a run of other code that states none."""
    prompt_ids: tuple[int, ...]
    gen_length: int
    versions: dict[str, str]
    """Of Skipstone, torch and Python."""
    source: str = "skipstone"
    """Whose loop ran: ``skipstone``, or the name of a foreign function."""
    weights: str = ""
    """Fingerprint of the weights; empty if none was taken."""
    batch: int = 1
    """Requests decoded together."""
    sample: int = 0
    """Which of them this is."""
    environment: dict[str, str] = field(default_factory=dict)
    """What may change the last bit: threads, attention backend, determinism flags."""
    stated: dict[str, str] = field(default_factory=dict)
    """What the user said was run (a label, a configuration), as far as it is known."""
    tensors: dict[str, str] = field(default_factory=dict)
    """Dtype, shape and fingerprint of each weight of other people's model, by its name; empty for
    ours, of which ``weights`` tells."""

    def __repr__(self) -> str:
        settings = " ".join(f"{name}={value}" for name, value in self.settings.items())
        return (
            f"<Header of {self.model!r}, {self.dtype} on {self.device}: {len(self.prompt_ids)} "
            f"prompt tokens, {self.gen_length} new; {settings or 'settings not known'}>"
        )


@dataclass(frozen=True, eq=False)
class StepRecord:
    """One forward and its commit."""

    forward: int
    block: int
    step: int
    recovery: bool
    """Repeats a step that committed nothing, over all rows and without skip."""
    refresh: bool
    """Recomputed every row in every layer."""
    block_start: int
    """First position of the block."""
    block_stop: int
    """First position after the block."""
    ids_before: np.ndarray
    """int32 [G]: ids of all new positions before the commit."""
    ids_after: np.ndarray
    """int32 [G]"""
    status_before: np.ndarray
    """uint8 [G]: 2 mask, 3 committed, 4 filled by the early stop."""
    status_after: np.ndarray
    """uint8 [G]"""
    rows: np.ndarray
    """int32 [N]: positions that entered layer 1."""
    finished: np.ndarray
    """int32: positions that went through every layer."""
    entered_age: np.ndarray
    """int32 [L]: age of the first layers' K/V, for every position of the canvas; -1 where this
    request has computed none, as what it took over of an earlier prompt."""
    finished_age: np.ndarray
    """int32 [L]: age of the deep layers' K/V, state and logits."""
    candidates: Candidates
    judgements: Judgements | None
    """None where the skip rule was not asked."""
    skip_layer: int = 0
    """The first layer that skipped rows did not compute, if they left after several the first of
    all; 0 if none skipped."""
    seconds: float = 0.0
    """Since the step before was done, or the run began."""
    positions_from: str = "engine"
    """How positions are known: engine, all_rows, canvas_slice, replace_position, position_ids,
    cache_length, inferred; unknown if they are not."""
    skip_layers: np.ndarray | None = None
    """int32 [N]: the first layer that each of ``rows`` did not compute, 0 for one that went through
    all; None where none left, and in traces of other code or of older versions."""
    layer_parts: np.ndarray | None = None
    """uint8 [Y, N]: what each layer computed of each of ``rows``: 0 nothing, 1 values alone, 2
    attention, 3 all of it; None unless a cache policy left something out in this step."""
    first_layers: np.ndarray | None = None
    """int32 [L]: the first layer that computed each position of the canvas, 0 where none did; None
    unless a cache policy had rows join before a later layer than the first."""

    def __repr__(self) -> str:
        kinds = [name for name in ("refresh", "recovery") if getattr(self, name)]
        return (
            f"<StepRecord block {self.block}, step {self.step}, forward {self.forward}: "
            f"{self.rows.size} rows, {len(self.skipped)} skipped, {len(self.committed)} of "
            f"{len(self.candidates)} masks committed, {self.masks_after} left in the block"
            f"{''.join(f', {kind}' for kind in kinds)}>"
        )

    @property
    def committed(self) -> tuple[int, ...]:
        """Positions that this step wrote to: of masks, and of tokens that it replaced."""
        return tuple(self.candidates.position[self.candidates.committed].tolist())

    @property
    def edited(self) -> tuple[int, ...]:
        """Those of them at which a token was committed before: it was replaced, by a mask too."""
        position_C = self.candidates.position[self.candidates.committed]
        return tuple(position_C[~self.masked[position_C - self.prompt_length]].tolist())

    @property
    def revoked(self) -> tuple[int, ...]:
        """Those of these at which a mask stands again."""
        masks = self.status_after == 2
        return tuple(p for p in self.edited if masks[p - self.prompt_length])

    @property
    def masked(self) -> np.ndarray:
        """Bool [G]: where the canvas held a mask before this step."""
        return self.status_before == 2

    def decides_as(self, other: StepRecord) -> bool:
        """Whether another step commits the same tokens at the same positions."""
        mine, theirs = (s.candidates.token[s.candidates.committed] for s in (self, other))
        return self.committed == other.committed and np.array_equal(mine, theirs)

    @cached_property
    def skipped(self) -> tuple[int, ...]:
        """Positions that left before the deep layers."""
        return tuple(np.setdiff1d(self.rows, self.finished).tolist())

    @cached_property
    def left_before(self) -> np.ndarray:
        """int32 [N]: ``skip_layers``; where these are not known, all left as the first of them."""
        if self.skip_layers is not None:
            return self.skip_layers
        left = ~np.isin(self.rows, self.finished)
        return np.where(left, self.skip_layer, 0).astype(np.int32)

    def computed_in(self, layer: int) -> np.ndarray:
        """int32: positions of the rows that a layer, counted from 1, computed, ascending.

        That is of those that had not left before it, and that had joined.
        """
        stayed = self.rows[(self.left_before == 0) | (self.left_before > layer)]
        if self.first_layers is None:
            return stayed
        return np.union1d(stayed, self.joined(2, layer)).astype(np.int32)

    def joined(self, first: int, last: int) -> np.ndarray:
        """int64: positions whose rows joined before one of these layers, ascending."""
        if self.first_layers is None:
            return np.zeros(0, np.int64)
        return np.flatnonzero((self.first_layers >= first) & (self.first_layers <= last))

    @property
    def layer_rows(self) -> np.ndarray | None:
        """int64 [Y]: how many rows each layer attended for; there where ``layer_parts`` is."""
        return None if self.layer_parts is None else (self.layer_parts > 1).sum(1)

    @property
    def mlp_rows(self) -> np.ndarray | None:
        """int64 [Y]: of how many of them it computed the MLP; there where ``layer_parts`` is."""
        return None if self.layer_parts is None else (self.layer_parts > 2).sum(1)

    @property
    def prompt_length(self) -> int:
        """Number of prompt positions."""
        return self.entered_age.size - self.ids_before.size

    @property
    def masks_before(self) -> int:
        """Masks in the block before the commit."""
        return self._masks(self.status_before)

    @property
    def masks_after(self) -> int:
        """Masks in the block after the commit."""
        return self._masks(self.status_after)

    @cached_property
    def canvas(self) -> int:
        """Fingerprint of the new positions before the commit, ids and status."""
        return crc32(self.status_before.tobytes(), crc32(self.ids_before.tobytes()))

    def _masks(self, status: np.ndarray) -> int:
        start = self.prompt_length
        block = status[self.block_start - start : self.block_stop - start]
        return int(np.count_nonzero(block == 2))


@dataclass(frozen=True)
class Outcome:
    """How the run ended."""

    text: str
    tokens: tuple[int, ...]
    """All new ids."""
    masks_left: int
    num_forwards: int
    skip_share: float
    seconds: float

    def __repr__(self) -> str:
        shown = self.text if len(self.text) <= 60 else f"{self.text[:59]}…"
        return (
            f"<Outcome {shown!r}: {self.num_forwards} forwards, {self.masks_left} masks left, "
            f"{self.skip_share:.1%} of row-layers skipped, {self.seconds:.2f} s>"
        )


@dataclass(frozen=True)
class Event:
    """Something seen in passing that is worth a word, such as what the position sanitizer found."""

    kind: str
    """For example ``misaligned_rows``, ``low_precision_similarity``, ``cache_overwritten``."""
    message: str
    """One line, with the numbers."""
    source: str = ""
    """``file.py:123`` of the code that did it."""
    forward: int = -1
    """The latest forward when it happened; -1 if none was seen."""
    layer: int = -1
    positions_a: tuple[int, ...] = ()
    positions_b: tuple[int, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)
    count: int = 1
    """How often it happened at this place."""

    def __repr__(self) -> str:
        where = f" at {self.source}" if self.source else ""
        times = f" ({self.count} times)" if self.count > 1 else ""
        return f"<Event {self.kind}{where}: {self.message!r}{times}>"


@dataclass(frozen=True)
class Hole:
    """Steps that were written down, and are no longer there."""

    after: int
    """The forward before them; -1 if there is none."""
    before: int
    """The forward after them; -1 if there is none."""
    steps: int
    """How many are missing."""

    def __str__(self) -> str:
        """Which steps they are, as far as it is known."""
        if self.before == self.after + 1 + self.steps:
            last = self.before - 1
            one = f"forward {last} is missing"
            return one if self.steps == 1 else f"forwards {self.after + 1} to {last} are missing"
        many = "1 step is missing" if self.steps == 1 else f"{self.steps} steps are missing"
        if self.before < 0:
            return f"{many} at the end" + (
                "" if self.after < 0 else f", after forward {self.after}"
            )
        return f"{many} before forward {self.before}"


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One request from its first forward to its end."""

    header: Header
    steps: tuple[StepRecord, ...]
    outcome: Outcome | None
    """None if the run did not end by itself: it was killed, or is still going."""
    events: tuple[Event, ...] = ()
    holes: tuple[Hole, ...] = ()
    """Where steps are missing that were recorded."""

    def __repr__(self) -> str:
        end = "unfinished" if self.outcome is None else repr(self.outcome)
        return f"<RunRecord of {len(self.steps)} steps: {self.header!r}, {end}>"

    @property
    def prompt_length(self) -> int:
        """Number of prompt positions; the first new token stands at this position."""
        return len(self.header.prompt_ids)

    @property
    def length(self) -> int:
        """L, the canvas length of this sample."""
        return len(self.header.prompt_ids) + self.header.gen_length

    def at(self, forward: int) -> StepRecord:
        """The step of a forward.

        Raises:
            KeyError: this sample took no part in it.
        """
        return self._by_forward[forward]

    def ages_at(self, step: StepRecord, layer: int) -> np.ndarray:
        """Age of the K/V of a layer, counted from 1, as a step left them: int32 [L]; -1: never."""
        if not self.depths or layer < self.depths[0]:
            return step.entered_age
        if layer >= self.depths[-1] and not self._rows_join:
            return step.finished_age
        never = np.iinfo(np.int32).max
        age_L = np.where(step.finished_age < 0, never, step.finished_age)
        for earlier in self.steps:
            since = step.forward - earlier.forward
            if since >= 0:
                computed = earlier.computed_in(layer)
                age_L[computed] = np.minimum(age_L[computed], since)
        return np.where(age_L == never, -1, age_L)

    def canvas_at(self, forward: int) -> int:
        """Fingerprint of the canvas that a forward started from; -1 if it is not known."""
        step = self._by_forward.get(forward)
        return -1 if step is None else step.canvas

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Layers that rows left before, or joined before, ascending."""
        left = {n for step in self.steps for n in step.left_before.tolist()} - {0}
        first = [s.first_layers.tolist() for s in self.steps if s.first_layers is not None]
        return tuple(sorted(left | ({n for layers in first for n in layers} - {0, 1})))

    @cached_property
    def _rows_join(self) -> bool:
        """Whether rows joined before a later layer than the first in any step."""
        return any(step.first_layers is not None for step in self.steps)

    @cached_property
    def _by_forward(self) -> dict[int, StepRecord]:
        return {step.forward: step for step in self.steps}

    @property
    def tokens(self) -> tuple[int, ...]:
        """All new ids as far as the run went."""
        if self.outcome is not None:
            return self.outcome.tokens
        nothing = [self.header.mask_id] * self.header.gen_length
        return tuple(self.steps[-1].ids_after.tolist() if self.steps else nothing)
