"""What was decoded of a request, as the caller sees it: tokens, text, work, and notes.

Shape letters: G generation length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from skipstone import policies
from skipstone.canvas import Status
from skipstone.engine.prefix import idle
from skipstone.engine.request import Done, Request
from skipstone.engine.result import Result, Stats
from skipstone.engine.settings import Settings
from skipstone.errors import NotFiniteError
from skipstone.quoting import shown
from skipstone.sentence import counted
from skipstone.skip import NoSkip
from skipstone.text import Text


def result_of(
    done: Done, seconds: float, *, text: Text, eos_id: int, notes: tuple[str, ...]
) -> Result:
    """The result of a request that has left.

    Args:
        done: what was decoded.
        seconds: from when it was submitted.
        text: of the model.
        eos_id: of the model.
        notes: what is to be said besides.
    """
    settings, masked_G = done.request.settings, done.status_G == Status.MASK
    tokens, masks = tuple(done.ids_G.tolist()), int(masked_G.sum())
    length = _length(done, eos_id)
    generated = int((done.status_G[:length] != Status.MASK).sum())
    stats = Stats(tuple(done.stats), seconds, generated, generated, done.reused)
    return Result(
        text=text.decode(tokens[:length], masked_G[:length].tolist()),
        tokens=tokens,
        length=length,
        prompt_tokens=done.prompt_length,
        masks_left=masks,
        stats=stats,
        settings=settings,
        notes=(*_notes(settings, stats, masks), *_of_request(done), *notes),
    )


def _length(done: Done, eos_id: int) -> int:
    """New positions before the first EOS, or whatever ends the request."""
    ended_G = np.isin(done.ids_G, [eos_id, *done.request.stop_ids])
    ended_G &= done.status_G != Status.MASK
    return int(ended_G.argmax()) if ended_G.any() else ended_G.size


def _of_request(done: Done) -> Iterator[str]:
    """What does not do what somebody may have meant by it, by the ids that were given."""
    request = done.request
    yield from _windowed(request)
    yield from idle(request.settings, request.reach, done.prompt_length, done.reused)
    masks = request.prompt.count(request.mask_id)
    if masks:
        yield (
            f"{counted(masks, 'id')} of the prompt {'is' if masks == 1 else 'are'} the mask "
            f"({request.mask_id}) and stayed: what follows a prompt was decoded; Engine.edit "
            f"decodes masks anywhere"
        )
    if request.mask_id in request.stop_ids:
        yield f"stop id {request.mask_id} has no effect: it is the mask, which is never decided"


def _windowed(request: Request) -> Iterator[str]:
    """That a window was asked for where nothing right of a block is seen anyway."""
    window = request.settings.suffix_window
    if window is not None and request.reach.block_size is not None:
        yield (
            f"suffix_window={window} has no effect: attention of this model is causal over blocks, "
            f"and nothing right of a block is seen"
        )


def _notes(settings: Settings, stats: Stats, masks_left: int) -> tuple[str, ...]:
    """What was set or switched on and did nothing, and what is missing from the answer."""
    notes = list(settings.idle())
    if masks_left:
        notes.append(
            f"{masks_left} of {settings.gen_length} new tokens are still masks: the step budget "
            f"ended first (budget=stop); budget=finish decodes them"
        )
    if not isinstance(settings.skip, NoSkip) and stats.skip_share == 0:
        could = sum(step.skippable_row_layers for step in stats.steps)
        skip = policies.SKIP.spell(settings.skip, brief=True)
        notes.append(f"skip is on ({skip}) and skipped nothing: 0 of {could} row-layers")
    notes += settings.cache.idle(stats.steps)
    if stats.num_refreshes == stats.num_forwards and stats.num_forwards:
        cache = policies.CACHE.spell(settings.cache, brief=True)
        forwards = stats.num_forwards
        why = (
            f"all {forwards} forwards were refreshes"
            if forwards > 1
            else "the only forward was a refresh"
        )
        notes.append(f"cache is on ({cache}) and saved nothing: {why}")
    return tuple(notes)


def idle_places(batch_size: int | None, count: int) -> tuple[str, ...]:
    """That a batch of ``count`` prompts has places which nobody takes."""
    if batch_size is None or batch_size <= count:
        return ()
    whole = "the only prompt" if count == 1 else f"the {count} prompts: all are decoded at once"
    return (f"batch_size={shown(batch_size)} has no effect: it is more than {whole}",)


def raise_error(error: BaseException | None, finished: Mapping[int, Result], prompts: int) -> None:
    """Raise the error of one of several prompts, with what the others gave."""
    if error is None:
        return
    if isinstance(error, NotFiniteError) and prompts > 1:
        message = f"{error}; {len(finished)} of {prompts} prompts were finished"
        raise NotFiniteError(message, finished) from None
    raise error
