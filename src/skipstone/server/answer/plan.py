"""From a request to what the engine is asked: ids, settings, and where an answer is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from skipstone.engine.settings import Settings, SettingsFields, parse_fields
from skipstone.server.access.account import SEEDS
from skipstone.server.protocol.common import DecodingRequest, SampledRequest
from skipstone.server.protocol.errors import TOO_LONG, AnswerError
from skipstone.server.protocol.strict import CONFLICT
from skipstone.server.served import ServedModel
from skipstone.server.traces.recording import TraceLevel, level_of


@dataclass(frozen=True)
class Ask:
    """One answer that is asked for."""

    prompt: Sequence[int]
    settings: SettingsFields
    """Other than the engine's."""
    limit: int
    """Tokens after which it is cut; more may be decoded."""
    stops: tuple[str, ...]
    told_beside: int | None
    """How many most probable tokens are told beside each; None: no log-probabilities are."""
    canvas: bool
    """Whether it is told what each step changed."""
    trace: TraceLevel | None
    """At which it is recorded."""
    fills: bool = False
    """Whether ``prompt`` is a canvas whose masks are decoded, and nothing follows it."""

    @property
    def to_end(self) -> bool:
        """Whether it is decoded to its end, as if nobody waited for a text alone."""
        return self.fills or self.trace is not None


def asks(
    served: ServedModel, asked: DecodingRequest, prompts: Sequence[Sequence[int]], seed: int
) -> list[Ask]:
    """Every answer of a request, those to a prompt beside each other.

    Args:
        served: the engine.
        asked: what its client has sent.
        prompts: as ids.
        seed: of what is drawn, where the request has none.

    Raises:
        AnswerError: another model is asked for.
    """
    check_model(served, asked.model)
    return [ask for prompt in prompts for ask in _to(served, asked, prompt, seed)]


def fills(
    served: ServedModel, asked: SampledRequest, canvas: Sequence[int], seed: int
) -> list[Ask]:
    """Every answer of a request that fills in a canvas; ``seed`` as ``asks`` takes it."""
    changes, own = _stated(asked), served.engine.settings
    whole = own.replace(**_of_any_length(changes))
    length = len(canvas) - canvas.index(served.engine.model.config.mask_id)
    _scale_steps(changes, whole, own, length)
    trace = None if asked.trace is None else level_of(asked.trace, served.traces)
    return [
        Ask(canvas, settings, length, (), None, canvas=False, trace=trace, fills=True)
        for settings in _drawn(asked, changes, whole, seed)
    ]


def check_model(served: ServedModel, name: str) -> None:
    """Refuse the name of a model that is not served.

    Raises:
        AnswerError: it is another one.
    """
    if name != served.options.name:
        raise AnswerError(
            404,
            f"model {name!r} is not served here; ask for {served.options.name!r}",
            param="model",
            code="model_not_found",
        )


def _to(
    served: ServedModel, asked: DecodingRequest, prompt: Sequence[int], drawn: int
) -> Iterator[Ask]:
    """The answers to one prompt."""
    changes, own = _stated(asked), served.engine.settings
    # Without what depends on how long it is.
    whole = own.replace(**_of_any_length(changes))
    if "gen_length" in changes:
        limit = asked.most_tokens or changes["gen_length"]
        if limit > changes["gen_length"]:
            raise AnswerError(
                400,
                f"gen_length is {changes['gen_length']}, and {limit} tokens are asked for; leave "
                f"gen_length out, or make it as long",
                param="skipstone.gen_length",
                code=CONFLICT,
            )
        _room(served, asked, len(prompt), changes["gen_length"])
    else:
        room = _room(served, asked, len(prompt), asked.most_tokens or 1)
        limit = asked.most_tokens or min(own.gen_length, room)
        changes["gen_length"] = _length(whole, len(prompt), limit, room)
    _scale_steps(changes, whole, own, changes["gen_length"])
    trace = None if asked.trace is None else level_of(asked.trace, served.traces)
    watched = (asked.told_beside, asked.with_canvas, trace)
    for settings in _drawn(asked, changes, whole, drawn):
        yield Ask(prompt, settings, limit, asked.stops, *watched)


def _room(served: ServedModel, asked: DecodingRequest, before: int, tokens: int) -> int:
    """What the model has positions for beside a prompt.

    Raises:
        AnswerError: it is less than what is asked for.
    """
    positions = served.engine.model.config.max_length
    room = positions - before
    if tokens > room:
        # Of a prompt that is too long by itself, no more is encoded than shows that.
        said = (
            f"the prompt has {before} tokens and {tokens} are asked for, more than the model's "
            f"{positions} together; shorten it, or ask for {room} at most"
            if room > 0
            else f"the prompt leaves no room for an answer: the model has {positions} positions "
            f"for both; shorten it"
        )
        raise AnswerError(400, said, param=asked.prompt_field, code=TOO_LONG)
    return room


def _scale_steps(changes: SettingsFields, whole: Settings, own: Settings, length: int) -> None:
    """State as many steps to a token as the server was started with, unless a request states them.

    Args:
        changes: of the request.
        whole: its settings, but for its length.
        own: the server's.
        length: new positions.
    """
    if own.steps is not None and "steps" not in changes:
        scaled = own.steps * length // own.gen_length
        changes["steps"] = max(-(-length // whole.whole_block), scaled)


def _drawn(
    asked: SampledRequest, changes: SettingsFields, whole: Settings, drawn: int
) -> Iterator[SettingsFields]:
    """The settings of each answer: where anything is drawn, each with a seed of its own."""
    draws = whole.temperature > 0 or whole.unmask.uses_seed
    first = whole.seed if whole.seed is not None else drawn
    for number in range(asked.n or 1):
        seed = {"seed": (first + number) % SEEDS} if draws else {}
        yield cast("SettingsFields", {**changes, **seed})


def _stated(asked: SampledRequest) -> SettingsFields:
    """What a request changes of the engine's settings.

    Raises:
        AnswerError: a setting is given twice.
        ConfigError: one is unknown, or has a wrong value.
    """
    found = {"temperature": asked.temperature, "top_p": asked.top_p, "seed": asked.seed}
    given = {name: value for name, value in found.items() if value is not None}
    more = parse_fields(asked.settings)
    for name in given:
        if name in more:
            raise AnswerError(
                400,
                f"{name} is given twice, once of them in skipstone; give it once",
                param=f"skipstone.{name}",
                code=CONFLICT,
            )
    return cast("SettingsFields", {**more, **given})


def _of_any_length(changes: SettingsFields) -> SettingsFields:
    """Changes without those that depend on how many positions are decoded."""
    left = {name: value for name, value in changes.items() if name != "gen_length"}
    return cast("SettingsFields", {**left, "steps": None})


def _length(settings: Settings, before: int, limit: int, room: int) -> int:
    """New positions in which so many tokens are decoded: whole blocks, as far as there is room.

    Args:
        settings: of the request.
        before: tokens of the prompt.
        limit: of the answer.
        room: what the model has positions for beside the prompt.
    """
    block = settings.whole_block
    start = before if settings.absolute_blocks else 0
    whole = -(-(start + limit) // block) * block - start
    return max(limit, min(whole, room))
