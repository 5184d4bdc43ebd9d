"""Recording the run of a foreign model and a foreign loop, from outside.

    with skipstone.attach(model) as recorder:
        output = their_generate(model, prompt)
    recorder.records[0]

Hooks on the model and its layers see every call; a torch function mode sees what the loop does in
between. Nothing is changed: the run gives the same bits as without.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from skipstone.checks import checked
from skipstone.errors import ConfigError, OutputError
from skipstone.foreign.attach.attached import Attached
from skipstone.foreign.attach.blocks import BLOCK_NAMES, said_length
from skipstone.foreign.attach.layers import find_layers
from skipstone.foreign.attach.wanted import AttachLevel, Wanted
from skipstone.foreign.shared.calls import as_text
from skipstone.foreign.shared.offset import check_offset
from skipstone.quoting import shown
from skipstone.tracing.record.recorder import Window


def attach(
    model: nn.Module,
    *,
    mask_id: int | None = None,
    eos_id: int | None = None,
    layers: str | None = None,
    level: AttachLevel = "decisions",
    window: Window | None = None,
    path: str | Path | None = None,
    stated: Mapping[str, object] | None = None,
    prompt_length: int | None = None,
    function_name: str = "",
    sanitize: bool = False,
    score_offset: int | None = None,
) -> Attached:
    """Record what a loop that is not ours does with ``model`` inside a ``with`` block.

    Several runs in one block are told apart by their first canvas; ``records`` is of the last one,
    ``traces`` has all.

    Args:
        model: called with token ids [B, N]; returns logits, alone or as ``.logits``.
        mask_id: the mask's id; None takes ``model.config.mask_token_id``.
        eos_id: None takes ``model.config.eos_token_id``, if there is one.
        layers: dotted name of the list of layers; None finds it.
        level: ``decisions``; ``sketches`` adds a projection of every state, ``window`` and ``full``
            states, keys, values and logits.
        window: first and last (block, step) of the level ``window``.
        path: folder of the trace; None keeps it in memory. A second run goes to ``NAME-2``.
        stated: settings that were meant, to be held against those that arrive. ``block_length``
            also says how to cut blocks where the calls do not tell.
        prompt_length: where new tokens begin; None takes the first mask.
        function_name: name of the loop; empty takes the function that calls the model.
        sanitize: also follow the position of every row, as ``skipstone.sanitize`` does, and
            write what is found into the trace: slow, so nothing is said about time.
        score_offset: 0, or -1 where logits are those of the next token, as Dream's are; None finds
            it from the first commits, and the trace says how.

    Raises:
        ConfigError: the mask id or the layers are not known, or an argument is wrong.
        OutputError: there is something at ``path``.
    """
    _check(model, level, layers, function_name, sanitize=sanitize)
    _check_window(level, window)
    eos = _special_id(model, "eos_token_id", eos_id)
    found = find_layers(model, layers)
    wanted = Wanted(
        mask_id=_mask_id(model, mask_id),
        eos_id=-1 if eos is None else eos,
        num_layers=len(found),
        level=level,
        window=window,
        prompt_length=_prompt_length(prompt_length),
        path=_free(path),
        stated=_settings(stated),
        function_name=function_name,
        sanitize=sanitize,
        score_offset=check_offset(score_offset),
    )
    return Attached(model, found, wanted)


def _check(
    model: object, level: object, layers: object, function_name: object, *, sanitize: object
) -> None:
    """Refuse arguments of another kind."""
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model is a {type(model).__name__}; attach needs the torch.nn.Module that the loop "
            f"calls. Runs of skipstone.Engine are recorded by skipstone.tracing.Recorder"
        )
    checked("level", level, AttachLevel)
    checked("layers", layers, str | None)
    checked("function_name", function_name, str)
    checked("sanitize", sanitize, bool)


def _mask_id(model: nn.Module, given: int | None) -> int:
    """The id of the mask, which must be known."""
    known = _special_id(model, "mask_token_id", given)
    if known is None:
        raise ConfigError(
            f"{type(model).__name__} does not say which id its mask has (config.mask_token_id); "
            f"pass mask_id=..."
        )
    return known


def _prompt_length(given: int | None) -> int | None:
    checked("prompt_length", given, int | None)
    if given is not None and given < 0:
        raise ConfigError(f"prompt_length is {given}, must be at least 0")
    return given


def _special_id(model: nn.Module, name: str, given: int | None) -> int | None:
    """An id that was given, or that the model's configuration names."""
    if given is None:
        found = getattr(getattr(model, "config", None), name, None)
        return found if isinstance(found, int) else None
    argument = name.replace("_token", "")
    number = checked(argument, given, int)
    if not isinstance(number, int) or number < 0:
        raise ConfigError(f"{argument} is {number}, must be an id of the vocabulary, at least 0")
    return number


def _check_window(level: AttachLevel, window: Window | None) -> None:
    """Refuse what is not a first and a last (block, step), or belongs to no level."""
    if (level == "window") != (window is not None):
        raise ConfigError(
            f"level is {shown(level)} and window is {shown(window)}; a window "
            f"belongs to level='window'"
        )
    if window is None:
        return
    try:
        (first_block, first_step), (last_block, last_step) = window
        right = (0, 0) <= (first_block, first_step) <= (last_block, last_step)
    except (TypeError, ValueError):
        right = False
    if not right:
        raise ConfigError(
            f"window is {shown(window)}, must be the first and the last (block, step), such as "
            f"((0, 2), (0, 5))"
        )


def _settings(stated: Mapping[str, object] | None) -> dict[str, str]:
    """What was stated, in its text form."""
    if stated is None:
        return {}
    if not isinstance(stated, Mapping):
        raise ConfigError(
            f"stated is {shown(stated)}, must be a dictionary of settings by their names"
        )
    settings = {name: as_text(value) for name, value in stated.items()}
    for name in BLOCK_NAMES:
        if stated.get(name) is not None and said_length({name: settings[name]}) is None:
            raise ConfigError(
                f"stated[{name!r}] is {shown(stated[name])}, must be a number of positions"
            )
    return settings


def _free(path: str | Path | None) -> Path | None:
    """Where a trace can be written: nothing is there yet."""
    if path is None:
        return None
    if not isinstance(path, (str, Path)):
        raise ConfigError(f"path is {shown(path)}, must be the folder of a new trace")
    if os.path.lexists(path):
        raise OutputError(
            f"{shown(str(path))} exists already, and is never overwritten; choose another path, "
            f"or remove it first"
        )
    return Path(path)
