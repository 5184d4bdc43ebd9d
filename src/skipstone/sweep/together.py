"""Prompts under many settings, decoded together: each with its own record, as if it were alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from skipstone.engine import Engine, Result, Settings
from skipstone.engine.fit import keeping_of
from skipstone.engine.observe import StepView, Taps
from skipstone.errors import NoRoomError, SkipstoneError
from skipstone.memory.kept import kept_bytes
from skipstone.memory.store import cell_bytes
from skipstone.models.load import Model
from skipstone.record import MemoryTrace
from skipstone.tracing.record.decisions import Decisions
from skipstone.tracing.record.recorder import Recorder, header_of, outcome

_MOST_TOGETHER = 256
# Of keys and values, and what is kept beside them, that are held at once; more requests wait.
_MOST_BYTES = 2 << 30
Encoded = Mapping[str, Sequence[int]]
"""Ids of each prompt."""


class DecodedRun:
    """A prompt that was decoded under some settings, and its record."""

    result: Result
    """Of a run that is done, and raised nothing."""
    error: SkipstoneError | None = None
    """What its policy raised; then it has neither a result nor a whole record."""

    def __init__(self, prompt: str, settings: Settings) -> None:
        """Not decoded yet."""
        self.prompt, self.settings = prompt, settings
        self.trace = MemoryTrace()


def decode_alone(model: Model, settings: Settings, prompt: str) -> DecodedRun:
    """Decode a prompt under some settings, beside nothing else.

    Raises:
        SkipstoneError: the prompt cannot be decoded under them.
    """
    run, recorder = DecodedRun(prompt, settings), Recorder()
    run.result = Engine(model, settings).generate(prompt, observer=recorder)
    run.trace = recorder.trace
    return run


def try_alone(model: Model, settings: Settings, prompt: str) -> DecodedRun:
    """The same, but an error is kept with the run, as what became of this prompt under them.

    Raises:
        NoRoomError: there is too little memory, which says nothing of the settings.
    """
    try:
        return decode_alone(model, settings, prompt)
    except NoRoomError:
        raise
    except SkipstoneError as error:
        run = DecodedRun(prompt, settings)
        run.error = error
        return run


def decode_together(model: Model, runs: Sequence[DecodedRun]) -> None:
    """Decode runs in as few batches as they can share, and fill in their results and records.

    Each gives the tokens that it gives alone. A batch has one skip policy, and a record one length.
    An error is kept with its run; the others of its batch are then decoded one by one.

    Raises:
        NoRoomError: there is too little memory.
    """
    ids = {prompt: model.text.encode(prompt) for prompt in {run.prompt for run in runs}}
    for batch in _batches(model, runs, ids):
        try:
            _decode_batch(model, batch, ids)
        except NoRoomError:
            raise
        except SkipstoneError:
            # It ends the batch, and does not say whose it is.
            for run in batch:
                alone = try_alone(model, run.settings, run.prompt)
                run.trace, run.error = alone.trace, alone.error
                if run.error is None:
                    run.result = alone.result


def _decode_batch(model: Model, batch: Sequence[DecodedRun], ids: Encoded) -> None:
    engine = Engine(model, batch[0].settings)
    engine.generate_batch(
        [ids[run.prompt] for run in batch],
        batch_size=min(len(batch), _at_once(model, batch, ids)),
        settings=[run.settings for run in batch],
        observer=_Records(batch),
    )


class _Records:
    """Writes down the steps of every request of a batch in a record of its own."""

    taps = Taps()

    def __init__(self, runs: Sequence[DecodedRun]) -> None:
        self._runs = runs

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        """Each is the only one of its record."""
        for run, ids in zip(self._runs, prompts, strict=True):
            run.trace.begin([header_of(model, run.settings, ids, 0, 1)], "decisions")

    def on_step(self, view: StepView) -> None:
        """Keep a step of each that took part; how long it took says nothing of one of them."""
        for sample, record in Decisions.copy(view).records(0.0):
            self._runs[sample].trace.step(0, record, {})

    def on_end(self, results: Sequence[Result]) -> None:
        """Close the records."""
        for run, result in zip(self._runs, results, strict=True):
            run.result = result
            run.trace.end([outcome(result)])


def _batches(model: Model, runs: Sequence[DecodedRun], ids: Encoded) -> Iterator[list[DecodedRun]]:
    """Those that can share one: of whole prompts, whose settings compute the same for a while."""

    def shared(run: DecodedRun) -> tuple[str, bool, int]:
        # Where a cache policy has a say in the midst of a forward, nothing is computed for others.
        settings = run.settings
        return settings.as_text()["skip"], bool(settings.cache.needs), settings.gen_length

    def likeness(run: DecodedRun) -> tuple[object, ...]:
        return *shared(run), run.prompt, run.settings.as_text()["cache"]

    for _, sharing in groupby(sorted(runs, key=likeness), key=shared):
        batch = list[DecodedRun]()
        for _, same in groupby(sharing, key=lambda run: run.prompt):
            coming = list(same)
            if batch and len(batch) + len(coming) > _at_once(model, [*batch, *coming], ids):
                yield batch
                batch = list[DecodedRun]()
            batch += coming
        yield batch


def _at_once(model: Model, runs: Sequence[DecodedRun], ids: Encoded) -> int:
    """How many of them have room beside each other."""
    longest = max(len(ids[run.prompt]) + run.settings.gen_length for run in runs)
    keeping = frozenset(one for run in runs for one in keeping_of(model.network, run.settings))
    config, dtype = model.config, model.network.dtype
    each = cell_bytes(config, dtype) + kept_bytes(keeping, config, dtype)
    room = _MOST_BYTES // (longest * each)
    return max(1, min(_MOST_TOGETHER, room))
