"""A side that is a function: run plain, run recorded, and run with its rows followed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

from torch import nn

from skipstone.errors import ConfigError
from skipstone.foreign.attach.attach import attach
from skipstone.foreign.attach.attached import Attached
from skipstone.foreign.explain.evidence import Cost, Depth, Observation
from skipstone.foreign.explain.progress import tell
from skipstone.foreign.explain.ran import Ran, caller_of, run
from skipstone.foreign.explain.start import Start
from skipstone.record import Event, Trace

# A run that takes less is made twice without a recorder: the first one warms up.
_CHEAP_S = 1.0
# Runs that are made to tell a function that differs by itself from one that recording changes.
_TRIES = 2


@dataclass(frozen=True)
class Attaching:
    """How ``attach`` is asked to read the model; its arguments by the same names."""

    model: nn.Module
    depth: Depth
    mask_id: int | None
    eos_id: int | None
    layers: str | None
    prompt_length: int | None
    stated: Mapping[str, object]

    def to(self, depth: Depth, *, sanitize: bool = False) -> Attached:
        """A recorder for one run."""
        return attach(
            self.model,
            mask_id=self.mask_id,
            eos_id=self.eos_id,
            layers=self.layers,
            level=depth.level,
            window=depth.window,
            stated=self.stated,
            prompt_length=self.prompt_length,
            sanitize=sanitize,
        )


# What the sanitizer alone can find.
FOLLOWED = frozenset({"cache_overwritten", "low_precision_similarity", "misaligned_rows"})
# Names that are listed; the others are counted.
_NAMED = 3


class _StoppedError(Exception):
    """The user's function raised: the recorder must not take the run for a whole one."""


class FunctionSide:
    """Runs one function of the user's, each time from the same start."""

    def __init__(
        self,
        name: str,
        function: Callable[..., object],
        attaching: Attaching,
        *,
        seed: int,
        sanitize: bool,
    ) -> None:
        """Take the function; nothing is run yet.

        Raises:
            ConfigError: it needs other arguments than a model.
        """
        self.name = name
        self._function = function
        self._attaching, self._model = attaching, attaching.model
        self._call = caller_of(function, self._model, name)
        self._seed, self._sanitize = seed, sanitize
        self._start: Start | None = None

    def observed(self) -> Observation:
        """Run it plain, then recorded, then, if wanted, with its rows followed.

        Raises:
            ConfigError: the model was not called.
        """
        first = self._plain(quiet=False)
        plain = [first]
        if first.seconds < _CHEAP_S:
            plain.append(self._plain(quiet=True))
        recorder, ran, seconds = self._recorded(self._attaching.depth)
        self._check(recorder, ran)
        if plain[-1].same(ran) is False:
            # Because of us, or by itself? Runs as they are tell.
            while len(plain) <= _TRIES and plain[0].same(plain[-1]) is not False:
                plain.append(self._plain(quiet=True))
        repeats = tuple[Sequence[Trace], ...]()
        events, sanitized = tuple[Event, ...](), None
        if self._sanitize:
            followed, _, sanitized = self._recorded(Depth("decisions"), sanitize=True)
            events = _events(followed)
            # Following the rows changes nothing, so it is one more run for comparison.
            repeats = (followed.traces,)
        self._hand_on()
        cost = Cost(plain[-1].seconds, seconds, sanitized, len(plain) + 1 + self._sanitize)
        return Observation(
            traces=recorder.traces,
            repeats=repeats,
            events=events,
            source=recorder.source,
            error=ran.error or first.error,
            notes=(*_oddities(self.name, plain, ran), *self._changes()),
            cost=cost,
        )

    def recorded_at(self, depth: Depth) -> Sequence[Trace]:
        """Run it once more with its tensors."""
        recorder, _, _ = self._recorded(depth)
        self._hand_on()
        return recorder.traces

    def _plain(self, *, quiet: bool) -> Ran:
        tell(f"{self.name}, run as it is")
        with self._begun.run():
            return run(self._call, self._model, quiet=quiet)

    def _recorded(self, depth: Depth, *, sanitize: bool = False) -> tuple[Attached, Ran, float]:
        ran = Ran(None, "", 0.0)
        followed = ", its rows followed" if sanitize else ""
        tell(f"{self.name}, recorded: {depth.level}{followed}")
        recorder = self._attaching.to(depth, sanitize=sanitize)
        with self._begun.run():
            began = perf_counter()
            try:
                with suppress(_StoppedError), recorder:
                    ran = run(self._call, self._model, quiet=True)
                    if ran.error:
                        raise _StoppedError
            except ConfigError as error:
                raise ConfigError(f"{self.name}: {error}") from error
            return recorder, ran, perf_counter() - began

    @property
    def _begun(self) -> Start:
        """Where every run of this side begins: at what is there when the first one does."""
        if self._start is None:
            self._start = Start(self._function, self._model, self._seed)
        return self._start

    def _hand_on(self) -> None:
        """The model and the prompt as they were; what was kept in lists stays for the next side."""
        self._begun.put_back(contents=False)

    def _check(self, recorder: Attached, ran: Ran) -> None:
        if any(record.steps for trace in recorder.traces for record in trace.records):
            return
        raise ConfigError(
            f"{self.name}: nothing of the run was recorded, for it raised {ran.error} before a "
            f"call of the model was done"
        )

    def _changes(self) -> list[str]:
        """What runs of this side change and would have left to the next run."""
        changed = self._begun.changed
        notes = list[str]()
        names = [name for name, restored in changed.items() if restored]
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            notes.append(
                f"{self.name} changes {', '.join(names[:_NAMED])}{more}: put back before each run "
                f"here, not in yours"
            )
        if not all(changed.values()):
            notes.append(
                f"{self.name} writes into the weights, which are too large to be put back: later "
                f"runs began from the changed ones"
            )
        return notes


def _events(followed: Attached) -> tuple[Event, ...]:
    """What following the rows found, of all runs and prompts, each once."""
    records = (record for trace in followed.traces for record in trace.records)
    found = (e for record in records for e in record.events if e.kind in FOLLOWED)
    return tuple({(e.kind, e.source): e for e in found}.values())


def _oddities(name: str, plain: Sequence[Ran], recorded: Ran) -> list[str]:
    """Runs of one function that do not end alike, although they begin alike."""
    if plain[0].same(plain[-1]) is False:
        return [
            f"{name} is not the same twice, although seeds, model and prompt are: "
            f"{_difference(plain[0], plain[-1])}"
        ]
    same = plain[-1].same(recorded)
    if same is False:
        return [f"recording changes {name}: {_difference(plain[-1], recorded)}"]
    if same is None:
        return [f"{name} returns nothing to compare; whether recording changes it is not known"]
    return []


def _difference(a: Ran, b: Ran) -> str:
    if a.error or b.error:
        return f"once it {_end(a)}, once it {_end(b)}"
    return "what it returns differs"


def _end(ran: Ran) -> str:
    return f"raised {ran.error}" if ran.error else "came to its end"
