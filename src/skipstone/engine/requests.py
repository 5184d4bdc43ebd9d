"""Requests out of what a caller gives: ids that fit the model, settings that do, and the canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skipstone.engine.arena import Arena
from skipstone.engine.defaults import with_defaults
from skipstone.engine.fit import beside_alone, check_fit, keeping_of
from skipstone.engine.prompts import check_ids, encode
from skipstone.engine.request import Request
from skipstone.engine.settings import Settings, SettingsFields
from skipstone.errors import ConfigError, PromptError
from skipstone.kinds import of_kind
from skipstone.models.load import Model
from skipstone.quoting import shown


@dataclass(frozen=True, eq=False)
class Requests:
    """Makes the requests of one engine."""

    model: Model
    arena: Arena
    """Where their keys and values will be."""
    stated: Settings
    """Of the engine, without what the model recommends."""

    def fitting(self, stated: Settings) -> Settings:
        """Settings with what the model recommends; refused if they do not fit it."""
        of_kind("settings of a prompt", stated, Settings, "skipstone.Settings")
        settings, own = with_defaults(stated, self.model), with_defaults(self.stated, self.model)
        mine, theirs = ((s.cache, s.unmask, s.skip) for s in (settings, own))
        if mine != theirs:
            check_fit(self.model.network, settings)
        return settings

    def settings_of(self, given: Sequence[Settings], count: int) -> list[Settings]:
        """The settings of each of so many prompts."""
        if not isinstance(given, Sequence) or len(given) != count:
            raise ConfigError(f"settings is {shown(given)}, must be {count} Settings")
        return [self.fitting(one) for one in given]

    def of_prompt(self, prompt: object, where: str, settings: Settings, sample: int = 0) -> Request:
        """A prompt that fits the model, to be decoded; ``where`` names it in errors."""
        config, gen_length = self.model.config, settings.gen_length
        ids = encode(prompt, self.model.text, where, config.max_length)
        check_ids(ids, where, config.vocab_size)
        if len(ids) + gen_length > config.max_length:
            raise PromptError(
                f"{where} has {len(ids)} tokens and gen_length is {gen_length}: together "
                f"{len(ids) + gen_length}, more than the model's {config.max_length}; shorten one"
            )
        return self.of_ids(ids, [config.mask_id] * gen_length, settings, sample, where)

    def of_canvas(self, canvas: object, changes: SettingsFields) -> Request:
        """A canvas whose masks are to be decoded, wherever they are.

        Raises:
            PromptError: it has no mask, or does not fit the model.
            ConfigError: a setting is unknown or does not fit.
        """
        if "gen_length" in changes or "max_new_tokens" in changes:
            raise ConfigError("the masks that there are are decoded: leave gen_length out")
        mask_id, most = self.model.config.mask_id, self.model.config.max_length
        ids = encode(canvas, self.model.text, "the canvas", most)
        check_ids(ids, "the canvas", self.model.config.vocab_size)
        if len(ids) > most:
            raise PromptError(f"the canvas has more than the model's {most} tokens; shorten it")
        if mask_id not in ids:
            raise PromptError(f"the canvas has no mask to fill in: put id {mask_id} where one is")
        first = ids.index(mask_id)
        own = SettingsFields(eos_stop=False) | changes
        if "growing_canvas" not in self.stated.stated:
            # What was given right of a mask is there to be seen, whatever a model recommends.
            own.setdefault("growing_canvas", False)
        own["gen_length"] = len(ids) - first
        settings = self.fitting(self.stated.replace(**own))
        return self.of_ids(ids[:first], ids[first:], settings, where="the canvas")

    def of_ids(
        self,
        prompt: Sequence[int],
        region: Sequence[int],
        settings: Settings,
        sample: int = 0,
        where: str = "the prompt",
    ) -> Request:
        """A request for the masks of ``region``, which follows a prompt."""
        network = self.model.network
        keeping = keeping_of(network, settings)
        request = Request.of(prompt, region, settings, network.config, sample, keeping)
        self.arena.check(request.length, beside_alone(network, request), where)
        return request
