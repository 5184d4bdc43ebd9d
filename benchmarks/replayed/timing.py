"""Answers decoded along a recording, and how long they take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from benchmarks.replayed.policies import scripted
from benchmarks.replayed.schedule import BlockAnswers, Recording, Schedule
from benchmarks.replayed.scripts import Prompter
from skipstone.bench.timing import clocked, unadvised
from skipstone.engine import Engine, Result, Settings
from skipstone.engine.fit import check_fit
from skipstone.engine.settings import parse_settings
from skipstone.models.load import Model

Prompt = tuple[int, ...]


@dataclass(frozen=True)
class Shape:
    """What is decoded in one call."""

    batch: int
    prompt: int
    """Tokens of each prompt."""
    blocks: int
    """Of each answer."""
    block_length: int

    @property
    def tokens(self) -> int:
        """New tokens of an answer."""
        return self.blocks * self.block_length

    def warming(self) -> Shape:
        """A call of one block over as many positions: all that is captured or compiled is then."""
        shorter = self.tokens - self.block_length
        return Shape(self.batch, self.prompt + shorter, 1, self.block_length)


@dataclass(frozen=True)
class Answered:
    """One call."""

    seconds: float
    steps: int
    """Of the request that took the most."""
    rows: int
    """That entered the first layer, of all requests."""
    skipped: float
    """Share of the row-layers that could be skipped and were."""
    strayed: int
    """Steps that requests took beyond those of their schedules, or did not take."""


@dataclass
class Timed:
    """All calls of one setting, as a table has it."""

    calls: list[Answered] = field(default_factory=list)
    failed: str = ""

    def as_json(self, shape: Shape) -> dict[str, float | int | str]:
        """Medians over calls; ``low`` and ``high`` are the fastest and the slowest one."""
        if self.failed:
            return {"failed": self.failed}
        each = [call.seconds / shape.batch for call in self.calls]
        median, steps = statistics.median, [call.steps for call in self.calls]
        rows = sum(call.rows for call in self.calls)
        return {
            "seconds_per_answer": round(median(each), 4),
            "low": round(min(each), 4),
            "high": round(max(each), 4),
            "tokens_per_s": round(shape.tokens / median(each), 1),
            "ms_per_step": round(median(1e3 * call.seconds / call.steps for call in self.calls), 3),
            "steps": median(steps),
            "rows_per_step": round(rows / sum(steps) / shape.batch, 1),
            "skipped_row_layers": round(median(call.skipped for call in self.calls), 4),
            "calls": len(self.calls),
            "strayed_steps": sum(call.strayed for call in self.calls),
        }


class Rehearsal:
    """One engine for all settings: they share its memory and what it has captured."""

    def __init__(
        self, model: Model, recording: Recording, shape: Shape, memory: str | None = None
    ) -> None:
        """Nothing is decoded yet.

        Args:
            model: decodes; of any shape and weights.
            recording: what its policies answer.
            shape: of a call.
            memory: for keys and values, as an engine takes it.
        """
        self._model, self._recording, self.shape = model, recording, shape
        self._engine = Engine(model, memory=memory)

    def warm_up(self, name: str) -> None:
        """Decode one block, whatever that takes."""
        self.run(name, 0, self.shape.warming())

    def run(
        self, name: str, index: int, shape: Shape | None = None, *, plain: bool = False
    ) -> Answered:
        """Decode one call of a setting.

        Args:
            name: of the setting.
            index: which answers of the recording; another one, others.
            shape: of the call; the rehearsal's if None.
            plain: decode without the script, to see what that costs.
        """
        shape = shape or self.shape
        schedule = self._recording.schedules[name]
        answers = [
            schedule.answer(index * shape.batch + i, shape.blocks) for i in range(shape.batch)
        ]
        settings = _settings(schedule, shape)
        self._engine.settings = settings if plain else scripted(settings, self._script(answers))
        check_fit(self._model.network, self._engine.settings)
        prompts, found = list(_prompts(self._model, shape)), list[Result]()

        def decode() -> None:
            with unadvised():
                found.extend(self._engine.generate_batch(prompts))

        seconds = clocked(decode, self._model.network.device)
        taken = [result.stats for result in found]
        return Answered(
            seconds=seconds,
            steps=max(stats.num_forwards for stats in taken),
            rows=sum(step.rows for stats in taken for step in stats.steps),
            skipped=statistics.mean(stats.skip_share for stats in taken),
            strayed=sum(
                abs(stats.num_forwards - sum(map(len, answer)))
                for stats, answer in zip(taken, answers, strict=True)
            ),
        )

    def _script(self, answers: Sequence[Sequence[BlockAnswers]]) -> Prompter:
        depths = self._recording.num_layers, self._model.config.num_layers
        device = self._model.network.device
        block_length = self._recording.block_length
        return Prompter(answers, block_length=block_length, depths=depths, device=device)


def in_rounds(
    rehearsal: Rehearsal,
    names: Iterable[str],
    *,
    calls: int,
    seconds: float,
    say: Callable[[str], None],
) -> Mapping[str, Timed]:
    """Time all settings once, then all of them once more, and so on: what drifts, drifts for all.

    A call that would end too late is not begun: some settings then have fewer.

    Args:
        rehearsal: decodes.
        names: of the settings.
        calls: of each setting.
        seconds: for all of it, from now on.
        say: takes a line for people.
    """
    until, timed = time.perf_counter() + seconds, {name: Timed() for name in names}
    for index in range(calls):
        for name, one in timed.items():
            expected = one.calls[-1].seconds if one.calls else 0.0
            if one.failed or time.perf_counter() + expected > until:
                continue
            try:
                if index == 0:
                    rehearsal.warm_up(name)
                one.calls.append(rehearsal.run(name, index))
            except Exception as error:
                # Whatever it is, the others are timed, and this one says so.
                one.failed = f"{type(error).__name__}: {error}"
                say(f"{name}: {one.failed}")
    return timed


def _settings(schedule: Schedule, shape: Shape) -> Settings:
    """As recorded, at other lengths; random weights say EOS anywhere, so nothing ends there."""
    return parse_settings(schedule.settings).replace(
        gen_length=shape.tokens,
        block_length=shape.block_length,
        eos_stop=False,
        stop_ids=(),
    )


def _prompts(model: Model, shape: Shape) -> Iterator[Prompt]:
    """Ids that are no special ones; each prompt has its own."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    for _ in range(shape.batch):
        ids = torch.randint(0, config.vocab_size, (2 * shape.prompt,), generator=generator)
        plain: Sequence[int] = [i for i in ids.tolist() if i not in (config.mask_id, config.eos_id)]
        yield tuple(plain[: shape.prompt])
