"""One run of a foreign loop on its way into a sink.

Shape letters: B batch, L canvas length.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from types import FrameType

import numpy as np

from skipstone.foreign.attach.blocks import (
    BLOCK_NAMES,
    block_length_from_rows,
    block_length_from_run,
    number,
    origin_of,
    prompt_lengths,
    said_length,
    window_of,
)
from skipstone.foreign.attach.cost import TimeSpent
from skipstone.foreign.attach.given import GivenTensors, plain_arguments, settings_within
from skipstone.foreign.attach.growth import refitted
from skipstone.foreign.attach.kept import Kept, rowed
from skipstone.foreign.attach.offset import ScoreOffset
from skipstone.foreign.attach.seen import Seen
from skipstone.foreign.attach.steps import Assembler
from skipstone.foreign.attach.wanted import Wanted
from skipstone.foreign.shared.calls import Call
from skipstone.foreign.shared.source import place, whole_numbers, written_at
from skipstone.record import LAST_UNSEEN, Event, Header, MemoryTrace, Outcome, StepRecord
from skipstone.record.writer import TraceWriter

# What loops call the confidence that they ask for.
_BOUND_NAMES = ("threshold", "confidence_threshold")


class ForeignRun:
    """Takes calls in order, finds the blocks as soon as it can, and writes steps down."""

    def __init__(
        self, sink: MemoryTrace | TraceWriter, canvas_BL: np.ndarray, wanted: Wanted
    ) -> None:
        """A run begins with its first whole canvas, int64 [B, L]."""
        self.start_BL = canvas_BL
        self.canvas_BL = canvas_BL
        self.prompt_lengths = prompt_lengths(canvas_BL, wanted.mask_id, wanted.prompt_length)
        self.disagreed = set[str]()
        """Lines whose calls contradict their ids."""
        self.stale = ""
        """The line of the call before, which may turn out to have been given old ids."""
        self.offset = ScoreOffset(wanted.score_offset)
        """Which row scores a position."""
        self.guided = False
        """Whether unconditional calls were seen."""
        self.settings = dict[str, str]()
        self.within = dict[str, str]()
        """Plain values within the objects that the loop was given."""
        self.loop_names = set[str]()
        """Settings that the loop was given, and no function around it."""
        self.source = ""
        self.function_name = ""
        self.clock = TimeSpent()
        self.chance = ""
        """Where random numbers stood when the first call had returned."""
        self.given = GivenTensors()
        self.forwards = 0
        self.calls_that_may_skip = 0
        self.partial_rows = 0
        self.last_block = -1
        self.skipped_row_layers = 0
        self._skippable_row_layers = 0
        self._sink, self._level, self._span = sink, wanted.level, wanted.window
        self._told = set[str]()
        self._mask_id, self._eos_id = wanted.mask_id, wanted.eos_id
        self._prompt_given = wanted.prompt_length
        self._header: Header | None = None
        self._written = list[tuple[int, StepRecord]]()
        self._origin = 0
        self._window: int | None = None
        self._assemblers = list[Assembler]()
        self._waiting = list[tuple[int, Seen, Kept]]()
        self._events = list[Event]()
        self._block_length: int | None = None
        self._likely_length: int | None = None
        """What the loop has under a usual name, and may not heed."""
        self._began = time.perf_counter()

    def note_settings(self, call: Call, stated: Mapping[str, str], frame: FrameType) -> None:
        """Settings of a call; the first time that one is not what was stated is an event."""
        self.source = place(frame)
        self.function_name = self.function_name or frame.f_code.co_name
        if not self.begun:
            self._likely_length = said_length(whole_numbers(frame, BLOCK_NAMES))
        if self.forwards <= 1:
            # Read twice: what has changed is no setting, and some come with the second call.
            within, names = settings_within(frame)
            same = {n: v for n, v in self.within.items() if within.get(n, v) == v}
            self.within = same | {n: v for n, v in within.items() if n not in self.within}
            self.loop_names |= names
        for name, value in plain_arguments(call, frame).items():
            self.settings.setdefault(name, value)
            meant = stated.get(name)
            if meant is None or name in self._told or _same(meant, value):
                continue
            self._told.add(name)
            self.event(_differs(name, meant, value, self.forwards, written_at(frame, name)))

    @property
    def begun(self) -> bool:
        """Whether the sink knows about the run."""
        return self._header is not None

    @property
    def length(self) -> int:
        """L."""
        return self.start_BL.shape[1]

    def grow(self, canvas_BL: np.ndarray) -> None:
        """Take note of a canvas that got longer; what was recorded so far is made as long."""
        length, more_BM = self.start_BL.shape[1], canvas_BL[:, self.start_BL.shape[1] :]
        if not more_BM.size:
            return
        before = self.prompt_lengths
        # What was computed before it grew was a window over its first positions.
        self._window = self._window or length
        self.start_BL = np.concatenate([self.start_BL, more_BM], axis=1)
        if self._prompt_given is None:
            self.prompt_lengths = prompt_lengths(self.start_BL, self._mask_id, None)
            # What came with new masks behind it is no prompt if new tokens stood before it.
            for b, old in enumerate(before):
                self.prompt_lengths[b] = old if old < length else self.prompt_lengths[b]
        for b, assembler in enumerate(self._assemblers):
            assembler.grow(more_BM[b], self.prompt_lengths[b])
        if self._header is not None:
            self._written = [
                (b, refitted(record, self.prompt_lengths[b], self.length, self._mask_id))
                for b, record in self._written
            ]
            self._sink.lengthen(self._headers(self._header), self._written)

    def begin(self, header: Header, stated: Mapping[str, str]) -> None:
        """Tell the sink, now that the first calls have shown their settings."""
        known = {**stated, **self.settings}
        starts = zip(self.start_BL, self.prompt_lengths, strict=True)
        origins = [origin_of(ids, start, self._mask_id, known) for ids, start in starts]
        self._origin = origins[0]
        self._block_length = said_length(known)
        bound = next((v for n in _BOUND_NAMES if (v := number(known.get(n))) == v), float("nan"))
        self._header = header
        self._assemblers = [
            Assembler(ids, start, origin, self._mask_id, header.eos_id, bound, self.offset)
            for ids, start, origin in zip(self.start_BL, self.prompt_lengths, origins, strict=True)
        ]
        self._sink.begin(self._headers(header), self._level)
        for event in self._events:
            self._tell(event)

    def _headers(self, header: Header) -> list[Header]:
        """One for each sample."""
        return [
            dataclasses.replace(
                header,
                prompt_ids=tuple(ids[:start].tolist()),
                gen_length=self.length - start,
                batch=len(self.start_BL),
                sample=b,
            )
            for b, (ids, start) in enumerate(zip(self.start_BL, self.prompt_lengths, strict=True))
        ]

    def event(self, event: Event) -> None:
        """Write an event down, for every sample."""
        if self.begun:
            self._tell(event)
        else:
            self._events.append(event)

    def count_call(self, arguments: Mapping[str, object], shape: tuple[int, ...]) -> int:
        """Take note that a call over [B, N] rows begins. Returns its number."""
        if shape[1] < self.length:
            self.partial_rows = max(self.partial_rows, math.prod(shape))
            skip = [value for name, value in arguments.items() if name.startswith("skip")]
            self.calls_that_may_skip += bool(skip) and None not in skip
        self.forwards += 1
        return self.forwards - 1

    def add(self, sample: int, seen: Seen, tensors: Kept) -> None:
        """One sample of a call, in order; written down once the block length is known."""
        if self._block_length is None:
            self._block_length = self._shown_length(sample, seen)
        self._waiting.append((sample, seen, tensors))
        self._note_offset(self.offset.note(seen, self._mask_id, self._eos_id))
        length = self._block_length if self.offset.settled else None
        if length is not None and sample == len(self.start_BL) - 1:
            self._write(length)

    def _shown_length(self, sample: int, seen: Seen) -> int | None:
        """The block length that a call shows: by its rows, or as the loop names it."""
        likely = self._likely_length
        if likely is not None:
            shown = self._assemblers[sample].keeps_to(seen, likely)
            if shown is False:
                self._likely_length = None
            elif shown:
                return likely
        rows, length = seen.next_rows, seen.before.size
        if rows is None or self._likely_length is not None:
            return None
        return block_length_from_rows(rows, self._origin, length)

    def end(self, final_BL: np.ndarray | None, texts: Sequence[str], *, ended: bool) -> None:
        """Write what still waits, and the outcome of a run that ended, if its canvas is known."""
        self._note_offset(self.offset.over())
        if self._waiting and self._block_length is not None:
            self._write(self._block_length)
        elif self._waiting:
            first = [seen for sample, seen, _ in self._waiting if sample == 0]
            length = self._likely_length
            if length is None:
                length = block_length_from_run(first, self._origin, self._mask_id)
                self.event(_inferred(length))
            self._write(length)
        if final_BL is None and ended:
            unknown = Event("end_not_seen", LAST_UNSEEN, self.source, forward=self.forwards - 1)
            self.event(unknown)
        if final_BL is None or not ended:
            self.close()
            return
        outcomes = [self._outcome(ids, b, texts) for b, ids in enumerate(final_BL)]
        for b, outcome in enumerate(outcomes):
            if outcome.masks_left and self._went_through(b, final_BL[b]):
                self._sink.event(b, self._masks_left(outcome))
        self._sink.end(outcomes)

    def close(self) -> None:
        """Leave the trace unfinished, as it is."""
        if isinstance(self._sink, TraceWriter):
            self._sink.close()

    def _note_offset(self, found: Event | None) -> None:
        if found is not None:
            self.event(dataclasses.replace(found, source=self.source, forward=self.forwards - 1))

    def _write(self, block_length: int) -> None:
        """All samples of a call together: they are at one block, even if only some show it."""
        waiting = [(b, self.offset.read(seen), kept) for b, seen, kept in self._waiting]
        batch = len(self.start_BL)
        if not self._written:
            self._window = next((w for _, s, _ in waiting if (w := _window(s)) is not None), None)
        grids = [assembler.blocks(block_length, self._window) for assembler in self._assemblers]
        for first in range(0, len(waiting), batch):
            call = waiting[first : first + batch]
            shown = [self._assemblers[b].shown(seen, grids[b]) for b, seen, _ in call]
            others = max((block for block in shown if block is not None), default=None)
            records = [self._assemblers[b].record(seen, grids[b], others) for b, seen, _ in call]
            self._write_steps(records, call)
        self._waiting.clear()

    def _write_steps(
        self, records: Sequence[StepRecord], call: Sequence[tuple[int, Seen, Kept]]
    ) -> None:
        """One call, of all samples; its tensors may still be on their way."""
        tensors = dict[int, Kept]()
        for record, (sample, seen, kept) in zip(records, call, strict=True):
            self.last_block = max(self.last_block, record.block_stop)
            self._count(seen)
            self._written.append((sample, record))
            if kept and self._wanted(record.block, record.step):
                tensors[sample] = kept
        samples = [sample for sample, _, _ in call]
        if tensors:
            taken = zip(samples, records, strict=True)
            self._sink.later((b, record, rowed(tensors.get(b, []))) for b, record in taken)
        else:
            for sample, record in zip(samples, records, strict=True):
                self._sink.step(sample, record, {})

    def _wanted(self, block: int, step: int) -> bool:
        """Whether the tensors of a step are kept."""
        if self._level == "window" and self._span is not None:
            return self._span[0] <= (block, step) <= self._span[1]
        return True

    def _count(self, seen: Seen) -> None:
        """Row-layers that were skipped, and those that could have been."""
        if seen.skip_layer and self._header is not None:
            deep = self._header.num_layers - seen.skip_layer + 1
            self._skippable_row_layers += deep * seen.rows.size
            self.skipped_row_layers += deep * (seen.rows.size - seen.finished.size)

    def _tell(self, event: Event) -> None:
        for sample in range(len(self.start_BL)):
            self._sink.event(sample, event)

    def _outcome(self, ids: np.ndarray, sample: int, texts: Sequence[str]) -> Outcome:
        new = ids[self.prompt_lengths[sample] :]
        could = self._skippable_row_layers
        return Outcome(
            text=texts[sample] if sample < len(texts) else "",
            tokens=tuple(new.tolist()),
            masks_left=int((new == self._mask_id).sum()),
            num_forwards=self.forwards,
            skip_share=self.skipped_row_layers / could if could else 0.0,
            seconds=time.perf_counter() - self._began,
        )

    def _went_through(self, sample: int, ids: np.ndarray) -> bool:
        """Whether the loop came to its end: to the last block, or to an EOS."""
        eos_id = -1 if self._header is None else self._header.eos_id
        return self.last_block >= self.length or eos_id in ids[self.prompt_lengths[sample] :]

    def _masks_left(self, outcome: Outcome) -> Event:
        total = len(outcome.tokens)
        return Event(
            kind="masks_left",
            message=(
                f"{outcome.masks_left} of {total} new tokens are still masks when the loop ends "
                f"after {outcome.num_forwards} calls; a tokenizer that leaves out special tokens "
                f"hides them"
            ),
            source=self.source,
            forward=self.forwards - 1,
            numbers={"masks_left": outcome.masks_left, "new_tokens": total},
        )


def _window(seen: Seen) -> int | None:
    return None if seen.whole else window_of(seen.rows, seen.before.size)


def _inferred(block_length: int) -> Event:
    return Event(
        kind="blocks_inferred",
        message=(
            f"blocks of {block_length} are read from the order of the commits; if that is wrong, "
            f"say so: stated={{'block_length': ...}}"
        ),
        numbers={"block_length": block_length},
    )


def _same(meant: str, value: str) -> bool:
    """Equal as texts or as numbers: 1 is 1.0."""
    return meant == value or number(meant) == number(value)


def _differs(name: str, meant: str, value: str, forward: int, source: str) -> Event:
    numbers = {"stated": number(meant), "received": number(value)}
    return Event(
        kind="stated_differs",
        message=f"{name} was stated as {meant}, but the run received {value}",
        source=source,
        forward=forward,
        numbers={k: v for k, v in numbers.items() if v == v},
    )
