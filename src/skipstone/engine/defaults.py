"""What a request decodes with: what was stated, what its model recommends, and the defaults.

Whatever was stated wins, each setting by itself. Of the rest, a model's recommendation is taken as
far as it goes with what was stated. What comes out of here is whole: records carry it, so that
whoever reads one need not know the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from skipstone.engine.settings import Settings, SettingsFields, parse_settings

if TYPE_CHECKING:
    from skipstone.models.load import Model

# How tokens are drawn. Temperature first: at 0 there is nothing to draw from.
_DRAWING = ("temperature", "top_p", "top_k")


def with_defaults(settings: Settings, model: Model) -> Settings:
    """Settings of which all are stated, for this model.

    Raises:
        ConfigError: the steps do not fit the blocks that the model decodes.
    """
    whole = settings.replace(**_of_model(settings, model))
    if not model.recommended.settings:
        return whole.all_stated()
    recommended = parse_settings(model.recommended.settings)
    names = [name for name in model.recommended.settings if name not in _DRAWING]
    for name in (*names, *_drawn(settings, recommended)):
        if name not in settings.stated:
            whole = _taken(whole, name, recommended)
    return whole.all_stated()


def alike(sides: Sequence[Settings], model: Model) -> list[Settings]:
    """Runs that are held against each other, with what their model recommends decided.

    They differ in what was stated alone: what one of them cannot take from the model, none takes.
    Nor does any draw unless that was stated: draws differ with the order of commits, and would hide
    what is looked for. Settings that the model has nothing to say of are as they were.

    Raises:
        ConfigError: the steps of one do not fit.
    """
    whole = [decided(side, model) for side in sides]
    both = list(zip(sides, whole, strict=True))
    plain = {
        name: getattr(Settings(), name)
        for name in model.recommended.settings
        if name in _DRAWING
        or not all(name in side.stated or name in taken(side, own, model) for side, own in both)
    }
    return [decided(_over(side, plain), model) for side in sides]


def decided(settings: Settings, model: Model) -> Settings:
    """With what the model recommends decided; other settings are as they were.

    Raises:
        ConfigError: the steps do not fit the blocks that the model decodes.
    """
    whole = with_defaults(settings, model)
    return _over(settings, {name: getattr(whole, name) for name in model.recommended.settings})


def taken(stated: Settings, whole: Settings, model: Model) -> Mapping[str, str]:
    """What was taken from the model's recommendation: texts by name, as it has them.

    Args:
        stated: what was given.
        whole: what was made of it.
        model: whose recommendation it is.
    """
    recommended = parse_settings(model.recommended.settings)
    return {
        name: text
        for name, text in model.recommended.settings.items()
        if name not in stated.stated and getattr(whole, name) == getattr(recommended, name)
    }


def _drawn(settings: Settings, recommended: Settings) -> tuple[str, ...]:
    """What of the drawing is recommended beside the unmask policy that was stated.

    It sharpens or cuts the confidence that masks are chosen by: another policy than the recommended
    one has its bars for that of the whole distribution.
    """
    other = type(settings.unmask) is not type(recommended.unmask)
    if "unmask" in settings.stated and other:
        return ()
    greedy = "temperature" in settings.stated and settings.temperature == 0
    names = () if greedy or recommended.temperature == 0 else _DRAWING[1:]
    return tuple(name for name in ("temperature", *names) if name in recommended.stated)


def _taken(settings: Settings, name: str, recommended: Settings) -> Settings:
    """With a setting of the recommendation, unless it would have no effect."""
    changed = _over(settings, {name: getattr(recommended, name)})
    return settings if len(changed.idle()) > len(settings.idle()) else changed


def _over(settings: Settings, values: Mapping[str, object]) -> Settings:
    """With values where nothing was stated; those are."""
    changes = {name: value for name, value in values.items() if name not in settings.stated}
    return settings.replace(**cast("SettingsFields", changes))


def _of_model(settings: Settings, model: Model) -> SettingsFields:
    """Where blocks are, cut as a block-causal model attends and as long; and what ends answers."""
    size, found = model.config.reach.block_size, SettingsFields()
    if size is not None:
        found["absolute_blocks"] = True
    if settings.block_length is None:
        found["block_length"] = size or settings.whole_block
    if "stop_ids" not in settings.stated and settings.eos_stop:
        found["stop_ids"] = model.stop_ids
    return found
