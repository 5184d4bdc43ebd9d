"""How what was given to ``explain`` becomes a side: a function, an engine, or a recorded run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from skipstone.engine import Engine, Settings, parse_settings, parse_spec
from skipstone.engine.defaults import alike
from skipstone.engine.prompts import Prompt
from skipstone.errors import ConfigError
from skipstone.foreign.attach.attached import Attached
from skipstone.foreign.explain.engine_side import EngineSide
from skipstone.foreign.explain.evidence import Depth, RecordedSide, RunSource
from skipstone.foreign.explain.function_side import Attaching, FunctionSide
from skipstone.models.load import Model
from skipstone.quoting import shown
from skipstone.record import Trace
from skipstone.record.recorded import stands_for_run, trace_of


@dataclass(frozen=True, eq=False)
class Sides:
    """What both sides share; see ``explain`` for the arguments of the same names."""

    model: object
    prompt: Prompt | None
    depth: Depth
    mask_id: int | None
    eos_id: int | None
    layers: str | None
    prompt_length: int | None
    sanitize: bool
    seed: int

    def good(self, given: object) -> RunSource:
        """The baseline."""
        return self._side("good", given, {}, sanitize=False)

    def bad(self, given: object, stated: Mapping[str, object]) -> RunSource:
        """The run to explain, with the settings that it is meant to have."""
        return self._side("bad", given, stated, sanitize=self.sanitize)

    def _side(
        self, name: str, given: object, stated: Mapping[str, object], *, sanitize: bool
    ) -> RunSource:
        if isinstance(given, (Engine, Settings)) or isinstance(self.model, (Engine, Model)):
            return _engine_side(name, given, self.model, self.prompt, self.depth)
        if not callable(given) or stands_for_run(given):
            return _recorded_side(name, given)
        if not isinstance(self.model, nn.Module):
            raise ConfigError(
                f"{name} is a function, and model is {shown(self.model)}; give the "
                f"torch.nn.Module that it calls: explain(model, good, bad)"
            )
        attaching = Attaching(
            self.model,
            self.depth,
            self.mask_id,
            self.eos_id,
            self.layers,
            self.prompt_length,
            stated,
        )
        return FunctionSide(name, given, attaching, seed=self.seed, sanitize=sanitize)


def _engine_side(
    name: str, given: object, model: object, prompt: Prompt | None, depth: Depth
) -> RunSource:
    """An engine, or settings for one."""
    if stands_for_run(given) and not isinstance(given, str):
        return _recorded_side(name, given)
    if callable(given):
        raise ConfigError(
            f"{name} is a function; for a model of ours give an engine, settings, or their text, "
            f"and prompt=..."
        )
    if prompt is None:
        raise ConfigError("prompt is missing; engines need one to decode: prompt='...'")
    if isinstance(given, Engine):
        return EngineSide(name, given, prompt, depth)
    base = model.settings if isinstance(model, Engine) else Settings()
    network = model.model if isinstance(model, Engine) else model
    if not isinstance(network, Model):
        raise ConfigError(
            f"model is {shown(network)}; settings need a model of ours, as skipstone.load gives it"
        )
    if isinstance(given, str):
        given = parse_settings(parse_spec(given), base)
    if isinstance(given, Settings):
        (settings,) = alike([given], network)
        return EngineSide(name, Engine(network, settings), prompt, depth)
    raise ConfigError(
        f"{name} is {shown(given)} ({type(given).__name__}); for a model of ours give an engine, "
        f"settings, or their text, and prompt=..."
    )


def _recorded_side(name: str, given: object) -> RunSource:
    """A run that is there already; of an attached recorder all its runs."""
    if isinstance(given, Attached) and given.traces:
        return RecordedSide(given.traces, given.source)
    trace: Trace = trace_of(given, name)
    return RecordedSide([trace])
