"""What is said about calls that cannot be located, or contradict themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import nn

from skipstone.foreign.attach.forward import Forward
from skipstone.foreign.rows.locate import Located
from skipstone.foreign.rows.placed import Placed
from skipstone.foreign.rows.stale_ids import given_old
from skipstone.foreign.shared.calls import Call
from skipstone.record import Event


def unlocated(
    problem: str, model: nn.Module, call: Call | None, source: str, forward: int = -1
) -> Event:
    """Rows, or a whole canvas, that cannot be known."""
    if not problem and call is None:
        problem = (
            f"{type(model).__name__} was called without token ids (a tensor of whole numbers) and "
            f"without embeddings; attach to the module that is called with them"
        )
    elif not problem:
        problem = (
            f"{type(model).__name__} was called with embeddings of ids that are not known, before "
            f"any canvas was; look them up inside of the with block by the model's own table"
        )
    return Event("rows_not_located", problem, source, forward=forward)


def unseen(forward: Forward, model: nn.Module, source: str) -> Iterator[Event]:
    """What a call did not show."""
    if forward.unseen:
        yield Event("not_recorded", forward.unseen, source, forward=forward.number)
    if forward.unlocated:
        yield unlocated(forward.unlocated, model, None, source, forward.number)


def attention_unseen(layer: int, problem: str, forward: int, source: str) -> Event:
    """Attention of a layer could not be followed."""
    message = (
        f"what attention is given in layer {layer} is not known as a whole: {problem}; what "
        f"depends on it is not told"
    )
    return Event("attention_not_recorded", message, source, forward=forward)


def overwritten(located: Located, start_BL: np.ndarray, forward: int, source: str) -> Event:
    """The loop has written into the prompt."""
    assert located.overwritten_BL is not None
    shows = int(np.argmax(located.overwritten_BL.any(1)))
    positions = np.flatnonzero(located.overwritten_BL[shows])
    at = int(positions[0])
    message = (
        f"the loop writes token {int(located.canvas_BL[shows, at])} over token "
        f"{int(start_BL[shows, at])} of the prompt at position {at}; {positions.size} tokens of "
        f"the prompt are other ones from here on"
    )
    return Event(
        kind="prompt_overwritten",
        message=message,
        source=source,
        forward=forward,
        positions_b=tuple(positions.tolist()),
    )


def disagree(true: Placed, said: Placed, forward: int, source: str) -> Event:
    """The rows come from one place of the canvas, and the call puts them at another."""
    a, b = true.positions_BN, said.positions_BN
    # The first prompt of the batch that shows it.
    shows = next((i for i in range(len(a)) if (a[i] != b[i]).any()), 0)
    a, b = a[shows], b[shows]
    return Event(
        kind="positions_disagree",
        message=(
            f"the call puts its {a.size} rows at positions {b.min()} to {b.max()} (by "
            f"{said.source}), but their ids are those of positions {a.min()} to {a.max()} of the "
            f"canvas"
        ),
        source=source,
        forward=forward,
        positions_a=tuple(a.tolist()),
        positions_b=tuple(b.tolist()),
    )


def stale_ids(located: Located, forward: int, source: str) -> Event:
    """A call was given ids that the loop had gone on from."""
    message, positions = given_old(located)
    return Event("ids_behind", message, source, forward=forward, positions_a=positions)


def guided_apart(forward: int, source: str) -> Event:
    """A step takes two calls, one of them with the prompt hidden."""
    message = "the model is called twice a step: the calls with a hidden prompt are no steps"
    return Event("guidance", message, source, forward=forward)


def guided_together(forward: int, source: str) -> Event:
    """A call computes both halves of the guidance."""
    message = (
        "each call computes the prompts more than once (guidance): states and logits are "
        "recorded of those that are not hidden"
    )
    return Event("guidance", message, source, forward=forward)
